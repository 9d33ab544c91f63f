"""Expects the names in a model to be text: where they are no UTF-8, protobuf hands them out as bytes."""

from collections.abc import Iterator
from typing import Any

import onnx

from prox24_export.errors import InputError


def check_texts(model: onnx.ModelProto, name: str) -> None:
    """Expects every name and every other text of a model to be UTF-8.

    Args:
        model: The model. The data of tensors are not looked at.
        name: What messages call it.

    Raises:
        InputError: One is not.
    """
    for message, field, text in _walk_texts(model):
        if not isinstance(text, str):
            raise InputError(
                f"{name} has a {field} in a {message} that is no UTF-8 text: {text!r:.80}. Export the model again."
            )


def _walk_texts(model: onnx.ModelProto) -> Iterator[tuple[str, str, Any]]:
    """Yields every text of a model, behind the names of its message and of its field."""
    pending: list[Any] = [model]
    while pending:
        message = pending.pop()
        kind = message.DESCRIPTOR.name
        if isinstance(message, onnx.TensorProto):  # all of its fields may take gigabytes
            yield kind, "name", message.name
            pending.extend(message.external_data)
            continue
        for field, value in message.ListFields():
            values = value if field.is_repeated else [value]
            if field.message_type:
                pending.extend(values)
            elif field.type == field.TYPE_STRING:
                for text in values:
                    yield kind, field.name, text
