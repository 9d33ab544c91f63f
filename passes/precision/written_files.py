"""Writes converted models, and moves them to their place with their external data."""

from pathlib import Path

import onnx_ir as ir

from prox24_export.passes.graph.arrays import EXTERNAL_TENSOR


def save_model(model: ir.Model, file: Path, *, external: bool) -> None:
    """Writes a model; with `external`, its large tensors go to a file beside it, named `file` with `.data` behind it.

    Raises:
        OSError: The file cannot be written.
    """
    if not external:
        ir.save(model, file)
        return
    for node in model.graph.all_nodes():
        _load_attributes(node)
    ir.save(model, file, external_data=f"{file.name}.data", size_threshold_bytes=EXTERNAL_TENSOR)


def count_stored_bytes(model: ir.Model) -> int:
    """Counts the bytes of all initializers of the main graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def publish(file: Path, target: Path) -> None:
    """Moves the files to their place, external data first, so that a model file never lacks the data it names."""
    data = file.with_name(f"{file.name}.data")
    if data.exists():
        data.replace(target.with_name(data.name))
    file.replace(target)


def _load_attributes(node: ir.Node) -> None:
    """Loads tensors of attributes, because only initializers can be written beside the model file."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy()))
