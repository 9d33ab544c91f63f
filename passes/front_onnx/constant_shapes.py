"""The shapes of constants that a model computes, without computing them: all weights together may exceed the memory."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from prox24_export.passes.front_onnx.external_data import load_tensor
from prox24_export.passes.front_onnx.tensors import count_entries, is_external

MOST_SIZES = 64  # entries of a tensor that tells an operator sizes or places
INTEGERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}


@dataclass(frozen=True)
class ConstantType:
    """What a constant is.

    Attributes:
        kind: Type of its entries, as `onnx.TensorProto.DataType` numbers it.
        shape: Size of each axis.
    """

    kind: int
    shape: tuple[int, ...]


def infer_constant_types(proto: onnx.ModelProto, constants: Collection[str], path: Path) -> dict[str, ConstantType]:
    """Infers types and shapes of values that depend on no input, as far as ONNX's shape inference tells them.

    Args:
        proto: The model. It is not changed, and only small tensors of integers are read.
        constants: Names of the values.
        path: The model's file, beside which are its external data.

    Returns:
        By name; values of unknown shape are left out.
    """
    model = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    model.graph.name = "constants"
    model.graph.node.extend(node for node in proto.graph.node if set(filter(None, node.output)) <= set(constants))
    model.graph.initializer.extend(_list_sizes(proto, path))
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, kind, dims) for name, kind, dims in _list_stored(proto)
    )
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - the library tells of types that it does not know by several exceptions
        inferred = model
    values = (*inferred.graph.input, *inferred.graph.value_info)
    return {value.name: found for value in values if (found := _read_type(value)) is not None}


def _list_sizes(proto: onnx.ModelProto, path: Path) -> Iterator[onnx.TensorProto]:
    """Yields the stored tensors whose values a shape may depend on, with their data."""
    for tensor in proto.graph.initializer:
        if tensor.data_type in INTEGERS and count_entries(tensor.dims, tensor.name) <= MOST_SIZES:
            loaded = onnx.TensorProto()
            loaded.CopyFrom(tensor)
            if is_external(loaded):
                load_tensor(loaded, path)
            yield loaded


def _list_stored(proto: onnx.ModelProto) -> Iterator[tuple[str, int, list[int]]]:
    """Yields name, type and shape of every stored tensor, sparse ones too."""
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor.data_type, list(tensor.dims)
    for sparse in proto.graph.sparse_initializer:
        yield sparse.values.name, sparse.values.data_type, list(sparse.dims)


def _read_type(value: onnx.ValueInfoProto) -> ConstantType | None:
    kind = value.type.tensor_type
    known = kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)
    return ConstantType(kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim)) if known else None
