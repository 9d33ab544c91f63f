"""Inputs of a model as its user feeds them, and inputs of a segment of it."""

import numpy as np
import onnx

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

DYNAMIC = -1  # what older exporters write for the size of a dynamic axis


def describe_input(value: onnx.ValueInfoProto) -> Input:
    """Describes an input of a model.

    Raises:
        InputError: It is no tensor, or one of its sizes is negative and does not stand for a dynamic axis.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InputError(f"input {value.name!r} is a {kind or 'value of unknown type'}; only tensors can be fed.")
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Input(value.name, dtype, None)
    sizes: list[int | str | None] = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    ]
    if any(isinstance(size, int) and size < DYNAMIC for size in sizes):
        raise InputError(
            f"input {value.name!r} has the shape {sizes}. Expected sizes that are not negative, or -1 for a dynamic "
            "axis; export the model again."
        )
    return Input(value.name, dtype, tuple(None if size in {0, DYNAMIC} else size for size in sizes))


def declare_input(name: str, array: Array) -> onnx.ValueInfoProto:
    """Declares an input of the type of an array, with no shape.

    Raises:
        InputError: The value is no array.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"value {name!r} between two stages is not a tensor but a {type(array).__name__}: sequences and "
            "optionals that cross a linear layer are not supported. Leave the layers after it dense with --exclude."
        )
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
