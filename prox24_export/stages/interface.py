"""What whoever deploys the written model needs to know of it: its inputs and outputs, and its compressed size."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import onnx

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.results.interface import ModelInterface, TensorFacts
from prox24_export.stages.write import WrittenModel

LARGEST = 512 * 2**20  # bytes that are compressed only to see how small they become
LEVEL, CHUNK = 1, 1 << 20
NAMES = {"float": "float32", "double": "float64"}  # where ONNX calls a type otherwise than numpy


def read_interface(written: WrittenModel) -> ModelInterface:
    """Reads inputs and outputs of the written ONNX file; both are empty where there is none."""
    if isinstance(written.sparse, OnnxGraph):
        graph = written.sparse.proto.graph
    elif written.onnx.is_file():
        graph = onnx.load(written.onnx, load_external_data=False).graph
    else:
        return ModelInterface()
    stored = {tensor.name for tensor in graph.initializer}
    inputs = (value for value in graph.input if value.name not in stored)
    return ModelInterface(tuple(map(_describe, inputs)), tuple(map(_describe, graph.output)))


def measure_compressed(files: Iterable[Path]) -> int | None:
    """Measures the size of files after compression by zlib at level 1; None where they are too large to try."""
    found = [file for file in files if file.is_file()]
    if not found or sum(file.stat().st_size for file in found) > LARGEST:
        return None
    return sum(map(_compress, found))


def _compress(file: Path) -> int:
    compressor, size = zlib.compressobj(LEVEL), 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _describe(value: onnx.ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorFacts(value.name, "", ())
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    sizes = (size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    return TensorFacts(value.name, NAMES.get(name, name), tuple(sizes))
