"""Nodes that are not what the schema of their operator says are refused before anybody relies on it."""

from pathlib import Path

import onnx
import pytest
from onnx import helper

from prox24_export import inspect
from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.check_nodes import check_nodes
from prox24_export.passes.graph.protocol import Reason, Skipped
from tests.graphs import model, normal, save

PRODUCT = "g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }"


def product(body: str = "y = MatMul(x, w)", more: str = "") -> onnx.ModelProto:
    return model(f"g (float[N,8] x) => (float[N,8] y) {{ {body} }}", {"w": normal(8, 8)}, more=more)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y = MatMul(x)", r"node without a name \(MatMul\) of m has 1 input\. Expected 2\."),
        ("y = Gemm(x, w, x, x)", r"\(Gemm\) of m has 4 inputs\. Expected 2 to 3\."),
        ("v = Squeeze() y = MatMul(x, w)", r"\(Squeeze\) of m has 0 inputs\. Expected at least 1\."),
        ("y, z = MatMul(x, w)", r"\(MatMul\) of m has 2 outputs\. Expected 1\."),
        ('y = Gemm<transB = "yes">(x, w)', r"attribute 'transB' as STRING\. Expected INT\."),
        ("y = If(x) <then_branch = b () => (float[N,8] p) { p = MatMul(x) }>", r"\(MatMul\) of m has 1 input\."),
    ],
)
def test_what_the_schema_forbids_is_refused(body: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_nodes(product(body), "m")


@pytest.mark.parametrize("op", ["Constant", "Unheard"])
def test_an_attribute_without_its_value_is_refused(op: str) -> None:
    proto = product()
    proto.graph.node.append(helper.make_node(op, [], ["c"]))
    proto.graph.node[-1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    said = rf"\({op}\) of m has the attribute 'value' without a value\. Expected one of the type TENSOR\."
    with pytest.raises(InputError, match=said):
        check_nodes(proto, "m")


def test_functions_and_what_trains_are_looked_at_too() -> None:
    proto = product()
    proto.functions.append(helper.make_function("m", "f", ["a"], ["b"], [helper.make_node("MatMul", ["a"], ["b"])], []))
    with pytest.raises(InputError, match=r"\(MatMul\) of m has 1 input\."):
        check_nodes(proto, "m")
    proto = product()
    proto.training_info.add().algorithm.node.append(helper.make_node("Conv", ["x"], ["y"]))
    with pytest.raises(InputError, match=r"\(Conv\) of m has 1 input\."):
        check_nodes(proto, "m")


@pytest.mark.parametrize("version", [0, -1, 1 << 62], ids=str)
def test_versions_that_nobody_knows_change_nothing(version: int) -> None:
    proto = product("y = MatMul(x)")
    proto.opset_import[0].version = version
    with pytest.raises(InputError, match=r"\(MatMul\) of m has 1 input\."):
        check_nodes(proto, "m")


def test_what_has_no_schema_is_left_alone() -> None:
    check_nodes(product("y = MatMul(x, w) z = com.microsoft.MatMul(x) v = Unheard(x)", ', "com.microsoft" : 1'), "m")
    own = product()
    own.functions.append(helper.make_function("", "MatMul", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []))
    del own.graph.node[0].input[1]
    check_nodes(own, "m")


def test_a_function_that_its_callers_cannot_reach_takes_nobodys_place(tmp_path: Path) -> None:
    proto = product("y = ai.onnx.MatMul(x)")
    relu = helper.make_node("Relu", ["a"], ["b"])
    proto.functions.append(helper.make_function("ai.onnx", "MatMul", ["a"], ["b"], [relu], proto.opset_import))
    with pytest.raises(InputError, match=r"\(MatMul\) of .* has 1 input\."):
        inspect(save(proto, tmp_path))


def refer(node: onnx.NodeProto, attribute: str, kind: "onnx.AttributeProto.AttributeType") -> onnx.NodeProto:
    node.attribute.add(name=attribute, type=kind, ref_attr_name="given")
    return node


@pytest.mark.parametrize(
    "before",
    [
        refer(helper.make_node("Constant", [], ["v"]), "value", onnx.AttributeProto.TENSOR),
        refer(helper.make_node("Transpose", ["w"], ["v"]), "perm", onnx.AttributeProto.INTS),
        refer(helper.make_node("Gemm", ["x", "w"], ["v"]), "transB", onnx.AttributeProto.INT),
    ],
    ids=["Constant", "Transpose", "Gemm"],
)
def test_an_attribute_that_a_function_is_called_with_has_no_value(before: onnx.NodeProto, tmp_path: Path) -> None:
    proto = product("y = own.f(x)", ', "own" : 1')
    stored = onnx.numpy_helper.from_array(normal(8, 8))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=stored),
        before,
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    made = helper.make_function("own", "f", ["x"], ["y"], nodes, proto.opset_import, ["given"])
    proto.functions.append(made)
    found = inspect(save(proto, tmp_path))
    assert {layer.reason for layer in found if isinstance(layer, Skipped)} == {Reason.IN_FUNCTION}
    proto.graph.node.append(before)
    with pytest.raises(InputError, match=r"takes its attribute '.*' from a function, and is in none"):
        inspect(save(proto, tmp_path))
