"""Tensors of which not as many values are stored as their shape says, or of no type, are refused."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.tensors import check_tensors
from tests.graphs import model, normal, save


def product(tensor: onnx.TensorProto) -> onnx.ModelProto:
    proto = model("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }")
    tensor.name = "w"
    proto.graph.initializer.append(tensor)
    return proto


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(data_type=TensorProto.FLOAT, dims=[2, 2], raw_data=bytes(20)),
        TensorProto(data_type=TensorProto.FLOAT, dims=[2, 2], float_data=[1.0] * 5),
        TensorProto(data_type=TensorProto.FLOAT, dims=[2, 2], float_data=[1.0] * 3),
        TensorProto(data_type=TensorProto.FLOAT, dims=[2, 2], int64_data=[1] * 4),
        TensorProto(data_type=TensorProto.INT8, dims=[2, 2], int32_data=[300] * 5),
        TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"a", b"b"]),
    ],
    ids=lambda tensor: str([field.name for field, _ in tensor.ListFields()]),
)
def test_other_values_than_the_shape_says_are_refused(tensor: onnx.TensorProto, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tensor 'w' of .*dense.onnx has the shape \[.*\], and (other|fewer) values"):
        OnnxGraph(save(product(tensor), tmp_path))


@pytest.mark.parametrize("kind", [TensorProto.UNDEFINED, 999])
def test_a_type_that_nobody_knows_is_refused(kind: int) -> None:
    tensor = TensorProto(dims=[2, 2], raw_data=bytes(16))
    tensor.data_type = kind
    with pytest.raises(InputError, match=f"tensor 'w' of m has a type that is not known, {kind}"):
        check_tensors(product(tensor), "m")


@pytest.mark.parametrize("kind", sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}))
def test_every_type_that_is_stored_as_it_should_be_is_accepted(kind: int) -> None:
    values: Any = [b"a", b"b", b"c"] if kind == TensorProto.STRING else [1, 0, 1]
    check_tensors(product(onnx.helper.make_tensor("w", kind, [3], values)), "m")
    if kind != TensorProto.STRING:
        array = onnx.numpy_helper.to_array(onnx.helper.make_tensor("w", kind, [3], values))
        check_tensors(product(onnx.numpy_helper.from_array(array)), "m")
    check_tensors(product(onnx.numpy_helper.from_array(normal(0, 3))), "m")


def test_a_node_without_results_owns_no_tensor() -> None:
    proto = product(onnx.numpy_helper.from_array(normal(8, 8)))
    proto.graph.node.append(onnx.helper.make_node("Constant", [], [], domain="own", value=proto.graph.initializer[0]))
    check_tensors(proto, "m")
