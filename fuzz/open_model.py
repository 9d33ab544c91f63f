"""The bytes of an ONNX file: they are opened and their linear layers are found, as `inspect` does it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from fuzz.values import BytesMutation, pick_integer
from prox24_export import pipeline
from prox24_export.passes.front_onnx.foldable import FOLDED
from prox24_export.process.printable import make_printable
from prox24_export.report import terminal

LONGEST = 1 << 15  # bytes of an input
EXTERNAL = "weights.bin"  # beside the model, for external data
OPERATORS = (*sorted(FOLDED), "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
OPERATORS += ("DequantizeLinear", "If", "Loop", "LSTM", "QuantizeLinear", "RandomNormal", "Scan", "SequenceConstruct")
TEXTS = (
    "",
    "x",
    "y",
    "w",
    "value",
    "shape",
    "to",
    "perm",
    "axes",
    "ai.onnx",
    "com.microsoft",
    "\x1b[2J",
    "\u202e",
    "a\0b",
)


@cache
def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp())
    (folder / EXTERNAL).write_bytes(bytes(range(256)) * 4)
    return folder


def check(data: bytes) -> None:
    """Opens a model, finds its layers, and renders them as a table and as JSON."""
    path = _make_folder() / "model.onnx"
    path.write_bytes(data)
    layers = pipeline.inspect_layers(path)
    terminal.layers_json(layers)
    terminal.layers_table(make_printable(layers))


def mutate(data: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    """Changes some fields of a model, or bytes where it is none."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return mutate_bytes(data)
    if not data or random.random() < 0.1:
        return mutate_bytes(data)
    with suppress(UnicodeDecodeError):  # texts that are no UTF-8 may be read, and not be copied
        for _ in range(random.choice((1, 1, 2, 4))):
            _change_message(model, random, mutate_bytes)
    changed: bytes = model.SerializeToString()
    return changed


def _change_message(model: Message, random: Random, mutate_bytes: BytesMutation) -> None:
    messages = list(_walk(model))
    message = random.choice(messages)
    field = random.choice([*message.DESCRIPTOR.fields, *(field for field, _ in message.ListFields())])

    def draw() -> Any:
        return _draw_value(field, messages, random, mutate_bytes)

    if random.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_list(getattr(message, field.name), random, draw)
    elif field.message_type:
        getattr(message, field.name).CopyFrom(draw())
    else:
        setattr(message, field.name, draw())


def _change_list(entries: Any, random: Random, draw: Callable[[], Any]) -> None:
    """Adds, removes, replaces or moves an entry of a repeated field."""
    place = random.randrange(len(entries)) if entries else 0
    match random.choice(("add", "remove", "replace", "swap")):
        case "remove" if entries:
            del entries[place]
        case "replace" if entries:
            _replace_entry(entries, place, draw())
        case "swap" if entries:
            held = list(entries)
            random.shuffle(held)
            copies = [_copy(entry) for entry in held]
            del entries[:]
            entries.extend(copies)
        case _:
            entries.extend([draw()])


def _replace_entry(entries: Any, place: int, value: Any) -> None:
    if isinstance(value, Message):
        entries[place].CopyFrom(value)
    else:
        entries[place] = value


def _copy(entry: Any) -> Any:
    if not isinstance(entry, Message):
        return entry
    copy = type(entry)()
    copy.CopyFrom(entry)
    return copy


def _draw_value(field: FieldDescriptor, messages: list[Message], random: Random, mutate_bytes: BytesMutation) -> Any:
    """Draws a value for a field: one that stands elsewhere in the model, or one of those that readers stumble over."""
    kind = field.message_type and field.message_type.full_name
    same = [message for message in messages if kind and message.DESCRIPTOR.full_name == kind]
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _copy(random.choice(same)) if same else _make_message(field)
        case FieldDescriptor.CPPTYPE_ENUM:
            return random.choice(field.enum_type.values).number
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return random.choice((0.0, 1.0, -1.0, 1e30, float("nan"), float("inf")))
        case FieldDescriptor.CPPTYPE_STRING:
            text = _draw_text(field.name, messages, random)
            as_bytes = field.type == FieldDescriptor.TYPE_BYTES
            return mutate_bytes(text.encode()) if as_bytes else text
    least, most = (-(1 << 31), (1 << 31) - 1) if "32" in _name_type(field) else (-(1 << 63), (1 << 63) - 1)
    value = pick_integer(random)
    return min(max(value, 0 if "u" in _name_type(field) else least), most)


def _name_type(field: FieldDescriptor) -> str:
    unsigned = field.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
    short = field.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_INT32}
    return f"{'u' if unsigned else ''}int{'32' if short else '64'}"


def _draw_text(name: str, messages: list[Message], random: Random) -> str:
    if name == "op_type" and random.random() < 0.8:
        return random.choice(OPERATORS)
    names = [text for message in messages for text in _list_texts(message)]
    return random.choice(names) if names and random.random() < 0.8 else random.choice(TEXTS)


def _list_texts(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = value if field.is_repeated else [value]
            yield from (text for text in texts if isinstance(text, str))  # bytes where they are no UTF-8


def _make_message(field: FieldDescriptor) -> Message:
    made: Message = GetMessageClass(field.message_type)()
    return made


def _walk(message: Message) -> Iterator[Message]:
    """Yields a message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                yield from _walk(inner)
