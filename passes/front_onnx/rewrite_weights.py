"""Writes a copy of an ONNX file with solved weights; everything else that the model says stays as it is."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from prox24_export.passes.front_onnx.external_data import find_place
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.tensors import find_model_tensors, has_external, is_external
from prox24_export.passes.graph.arrays import EXTERNAL_ABOVE, EXTERNAL_TENSOR, Array, map_file

MODEL = "model.onnx"
DATA = ".data"  # ending of the file of external data, behind the name of the model's file
EXTERNAL_DATA = MODEL + DATA
OUR_ENDINGS = {".json", ".html", ".md", ".xml", ".txt", ".log", ".onnx"}  # whatever else a run writes beside the model
OUR_FOLDERS = {"engines"}  # … or in here
ALIGNMENT = 4096  # bytes: what ONNX recommends, so that a reader can map a tensor into memory


@dataclass(frozen=True)
class RewrittenModel:
    """A model file that was written.

    Attributes:
        path: The file.
        changed: Names of the weights that were replaced.
    """

    path: Path
    changed: tuple[str, ...]


@dataclass(frozen=True)
class RewriteWeights:
    """The pass that writes solved weights, and its settings.

    Attributes:
        external_above: Size of the model in bytes above which large tensors go to `NAME.data`. They also go there where
            the source holds external data.
        name: The name of the file that is written.
    """

    external_above: int = EXTERNAL_ABOVE
    name: str = MODEL

    def call(self, *, graph: OnnxGraph, weights: Mapping[str, Array], folder: Path) -> RewrittenModel:
        """Writes a copy of the model with new weights.

        Without any, the file is copied byte by byte, unless the run may write another file under a name that its
        external data have, or the file gets a name of its own: these then go to `NAME.data`. Where tensors are
        external, they are copied from file to file.

        Args:
            graph: The model.
            weights: New weights by name, in the shape and dtype in which they are stored.
            folder: Folder for the file and its external data; it must exist.

        Raises:
            ValueError: A weight is not stored in the model, or not in this shape and dtype.
            InputError: External data cannot be read.
            OSError: The folder cannot be written.
        """
        if not weights and (_can_be_copied(graph) if self.name == MODEL else not graph.external_names):
            return RewrittenModel(_copy_unchanged(graph, folder, self.name), ())
        self.requires(graph, weights)
        model = onnx.ModelProto()
        model.CopyFrom(graph.proto)
        tensors = list(find_model_tensors(model))
        if has_external(model) or model.ByteSize() > self.external_above:
            location = self.name + DATA
            with (folder / location).open("wb") as data:
                for name, tensor in tensors:
                    _place(tensor, _read_payload(graph, name, tensor, weights), data, location)
        else:
            for name, tensor in tensors:
                if name is not None and name in weights:
                    _inline(tensor, weights[name].tobytes())
        path = folder / self.name
        path.write_bytes(model.SerializeToString())
        return RewrittenModel(path, tuple(weights))

    @staticmethod
    def requires(graph: OnnxGraph, weights: Mapping[str, Array]) -> None:
        """Expects every weight to be stored in the model, in its shape and dtype. No tensor is read for that.

        Raises:
            ValueError: A weight is not stored in the model, or has another shape or dtype there.
        """
        stored = {name: tensor for name, tensor in find_model_tensors(graph.proto) if name is not None}
        for name, array in weights.items():
            if name not in stored:
                raise ValueError(f"weights must be stored in the model. Got {name}, which {graph.path} does not hold.")
            wanted = tuple(stored[name].dims), onnx.helper.tensor_dtype_to_np_dtype(stored[name].data_type)
            if wanted != (array.shape, array.dtype):
                raise ValueError(
                    f"weight {name} must have shape {list(wanted[0])} and type {wanted[1]}. "
                    f"Got {list(array.shape)} and {array.dtype}."
                )


def _can_be_copied(graph: OnnxGraph) -> bool:
    """Whether a copy of the file beside copies of its external data stays the same model, whatever a run writes there.

    Two names that a file system may take for one, and names that lead through another folder, may not stay.
    """
    names = graph.external_names
    paths = [PurePosixPath(name) for name in names]
    plain = all(str(path) == name and ".." not in path.parts for path, name in zip(paths, names, strict=True))
    ours = any(path.suffix.lower() in OUR_ENDINGS or path.parts[0].lower() in OUR_FOLDERS for path in paths)
    return plain and not ours and len({name.casefold() for name in names}) == len(names)


def _copy_unchanged(graph: OnnxGraph, folder: Path, name: str) -> Path:
    """Copies the file and the external data that it names byte by byte.

    Raises:
        OSError: The folder cannot be written.
    """
    path = folder / name
    shutil.copyfile(graph.path, path)
    for file in graph.external_files:
        target = folder / file.relative_to(graph.path.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return path


def _read_payload(
    graph: OnnxGraph, name: str | None, tensor: onnx.TensorProto, weights: Mapping[str, Array]
) -> Array | None:
    """The bytes that the new file holds for a tensor, as uint8; None where the tensor stays as it is in the file."""
    if name is not None and name in weights:
        return np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8)
    if tensor.data_type == onnx.TensorProto.STRING:
        return None  # strings are always inline
    if not is_external(tensor):
        payload = np.frombuffer(ir.serde.deserialize_tensor(tensor).tobytes(), np.uint8)
        return payload if payload.size >= EXTERNAL_TENSOR else None
    place = find_place(tensor, graph.path)
    return map_file(place.file, np.dtype(np.uint8), [place.length], place.offset)


def _place(tensor: onnx.TensorProto, payload: Array | None, data: BinaryIO, location: str) -> None:
    """Puts a large payload into the file of external data, and a small one into the model file."""
    if payload is None:
        return
    if payload.size < EXTERNAL_TENSOR:
        _inline(tensor, payload.tobytes())
        return
    data.write(bytes(-data.tell() % ALIGNMENT))
    offset = data.tell()
    data.write(payload.data)
    _clear(tensor)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", payload.size)):
        tensor.external_data.add(key=key, value=str(value))


def _inline(tensor: onnx.TensorProto, payload: bytes) -> None:
    _clear(tensor)
    tensor.raw_data = payload


def _clear(tensor: onnx.TensorProto) -> None:
    typed = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")
    for field in ("raw_data", *typed, "external_data", "data_location"):
        tensor.ClearField(field)
