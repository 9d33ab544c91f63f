"""Writes converted models, and moves them to their place with their external data."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.external_data import open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.tensors import has_external
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


def copy_model(graph: OnnxGraph, file: Path) -> None:
    """Copies a model as it is; with external data, these go to one file beside it.

    Raises:
        OSError: The file cannot be written.
    """
    if has_external(graph.proto):
        save_model(open_model(graph.proto, graph.path), file, external=True)
    else:
        shutil.copyfile(graph.path, file)


def expect_other_file(source: Path, target: Path) -> None:
    """Expects the target of a conversion to be another file than its source.

    Raises:
        InputError: Both are the same file.
    """
    if target.resolve() == source.resolve():
        raise InputError(f"{target} is the model that is converted. Expected another file to write to.")


@contextmanager
def write_whole(target: Path) -> Iterator[Path]:
    """Yields a file to write, in a folder beside the target, which appears whole when the block ends well.

    Raises:
        OSError: The target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        file = Path(folder) / target.name
        yield file
        _publish(file, target)


def _publish(file: Path, target: Path) -> None:
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
