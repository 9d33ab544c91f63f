"""Puts solved weights into a copy of the file: every other byte of the model's meaning stays."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx

from prox24_export.passes.graph import Array
from prox24_export.passes.onnx_graph import OnnxGraph

MODEL = "model.onnx"
EXTERNAL_ABOVE = 1_800_000_000  # bytes: protobuf ends at 2 GiB
EXTERNAL_TENSOR = 1024  # bytes: smaller tensors stay in the file
EXTERNAL_DATA = "model.onnx.data"


@dataclass(frozen=True)
class RewriteWeights:
    """Settings of the pass.

    Attributes:
        external_above: Bytes of weights above which they go to `model.onnx.data`; also where the source did so.
    """

    external_above: int = EXTERNAL_ABOVE

    def call(self, graph: OnnxGraph, weights: Mapping[str, Array], folder: Path) -> Path:
        """Writes the model with `weights` (stored shape and dtype, by name) into `folder`.

        One tensor is in memory at a time where weights are external.

        Returns:
            Path of the model file.

        Raises:
            OSError: The folder cannot be written.
        """
        model = onnx.ModelProto()
        model.CopyFrom(graph.proto)
        tensors = list(_tensors(model.graph))
        external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for _, tensor in tensors)
        if external or model.ByteSize() > self.external_above:
            with (folder / EXTERNAL_DATA).open("wb") as data:
                for name, tensor in tensors:
                    _externalise(tensor, _payload(graph, name, tensor, weights), data)
        else:
            for name, tensor in tensors:
                if name in weights:
                    _inline(tensor, weights[name].tobytes())
        path = folder / MODEL
        path.write_bytes(model.SerializeToString())
        return path


def copy_unchanged(graph: OnnxGraph, folder: Path) -> Path:
    """A byte copy of the file and of the external data it names."""
    path = folder / MODEL
    shutil.copyfile(graph.path, path)
    locations = {
        entry.value
        for _, tensor in _tensors(graph.proto.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for location in sorted(locations):
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph.path.parent / location, folder / location)
    return path


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str | None, onnx.TensorProto]]:
    """(name, tensor) of everything stored; the name is None where no layer can own it."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                owned = node.op_type == "Constant" and attribute.name == "value"
                yield (node.output[0] if owned else None), attribute.t
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for _, tensor in _tensors(body):
                    yield None, tensor


def _payload(graph: OnnxGraph, name: str | None, tensor: onnx.TensorProto, weights: Mapping[str, Array]) -> bytes:
    if name in weights:
        return weights[str(name)].tobytes()
    loaded = onnx.TensorProto()
    loaded.CopyFrom(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        onnx.external_data_helper.load_external_data_for_tensor(loaded, str(graph.path.parent))
    if loaded.data_type == onnx.TensorProto.STRING:
        return b""  # strings are always inline
    return loaded.raw_data or onnx.numpy_helper.to_array(loaded).tobytes()


def _externalise(tensor: onnx.TensorProto, payload: bytes, data: BinaryIO) -> None:
    was_external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if len(payload) < EXTERNAL_TENSOR:
        if was_external:
            _inline(tensor, payload)
        return
    offset = data.tell()
    data.write(payload)
    _clear(tensor)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", EXTERNAL_DATA), ("offset", offset), ("length", len(payload))):
        tensor.external_data.add(key=key, value=str(value))


def _inline(tensor: onnx.TensorProto, payload: bytes) -> None:
    _clear(tensor)
    tensor.raw_data = payload


def _clear(tensor: onnx.TensorProto) -> None:
    for field in ("raw_data", "float_data", "int32_data", "double_data", "external_data", "data_location"):
        tensor.ClearField(field)
