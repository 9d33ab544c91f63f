"""Large tensors of external data as arrays over their files: the system reads what is used, and may forget it again.

Such arrays take no memory of their own. ONNX Runtime does not get them as initializers, which it would copy, but as
inputs that are fed at every call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
from prox24_export.passes.front_onnx.external_data import find_place
from prox24_export.passes.front_onnx.tensors import count_bytes, is_external
from prox24_export.passes.graph.arrays import Array, map_file

STREAMED_ABOVE = 64 << 20  # bytes of external data from which a model's large tensors stay in their files
LARGE = 64 << 10  # bytes; smaller tensors, such as shapes, are constants to ONNX Runtime
MAPPABLE = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
}


def find_mappable(proto: onnx.ModelProto, path: Path) -> dict[str, onnx.TensorProto]:
    """Finds the initializers of the main graph that stay in their files, by name.

    Args:
        proto: The model.
        path: Its file, for messages.

    Returns:
        The large ones with external data; none where these are few bytes, or where ONNX Runtime has to hold them,
        because they are outputs too.

    Raises:
        InputError: A shape is none that a tensor can have.
    """
    external = [tensor for tensor in proto.graph.initializer if is_external(tensor)]
    sizes = {tensor.name: count_bytes(tensor, str(path)) or 0 for tensor in external}
    if sum(sizes.values()) < STREAMED_ABOVE:
        return {}
    outputs = {value.name for value in proto.graph.output}
    return {
        tensor.name: tensor
        for tensor in external
        if sizes[tensor.name] >= LARGE and tensor.data_type in MAPPABLE and tensor.name not in outputs
    }


def map_tensor(tensor: onnx.TensorProto, model: Path) -> Array:
    """Maps the data of an external tensor into memory.

    Args:
        tensor: The tensor; its type is one of `MAPPABLE`.
        model: The model's file, beside which the data are.

    Returns:
        An array in the tensor's shape and type. What is written into it stays with it and never reaches the file.

    Raises:
        InputError: As for `find_place`.
    """
    place = find_place(tensor, model)
    return map_file(place.file, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), tensor.dims, place.offset)


@dataclass(frozen=True)
class MappedFiles:
    """The files that tensors are mapped from, as they were when a model was opened.

    Attributes:
        sizes: The size of each file in bytes.
    """

    sizes: Mapping[Path, int]

    @classmethod
    def of(cls, tensors: Iterable[onnx.TensorProto], model: Path) -> "MappedFiles":
        """Looks at the files of external tensors.

        Raises:
            InputError: As for `find_place`.
        """
        files = {find_place(tensor, model).file for tensor in tensors}
        return cls({file: file.stat().st_size for file in sorted(files)})

    def expect_whole(self) -> None:
        """Expects no file to have become shorter: reading behind its end would end the process without a word.

        Raises:
            InputError: One has, or is gone.
        """
        for file, size in self.sizes.items():
            found = expect_file(file, "external data", "the file to stay until the run ends").st_size
            if found < size:
                raise InputError(
                    f"external data {file} became shorter while they were read: from {size:,} to {found:,} bytes. "
                    "Expected the model to stay as it is until the run ends; run again."
                )


def read_own(tensor: ir.TensorProtocol) -> Array:
    """Reads a tensor of onnx_ir as an array that nobody else holds, so that it may be written into.

    Large external float32 tensors are mapped, as by `map_tensor`. bfloat16, which torch takes from no array, becomes
    float32, which is exact.
    """
    if isinstance(tensor, ir.ExternalTensor) and tensor.dtype == ir.DataType.FLOAT and tensor.nbytes >= LARGE:
        return map_file(Path(tensor.path), np.dtype(np.float32), tensor.shape.numpy(), tensor.offset or 0)
    wide = np.float32 if tensor.dtype == ir.DataType.BFLOAT16 else None
    return np.array(tensor.numpy(), dtype=wide, order="C")
