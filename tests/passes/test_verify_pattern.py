"""What was written is read again: a planted fault must be found, and an independent checker must agree."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.verify_pattern import PatternError, VerifyPattern, violations
from tests.graphs import linears, magnitude, model, normal, opened, polygraphys_verdict, rewritten

TEXT = """g (float[n,8] x) => (float[n,4] y) {
    [first] a = MatMul(x, u) b = Relu(a) [second] c = Gemm<transB = 1>(b, v) [third] y = MatMul(c, w) }"""
WEIGHTS = {"u": normal(8, 16), "v": normal(8, 16, seed=1), "w": normal(8, 4, seed=2)}


def sparse(folder: Path) -> tuple[Path, list[Linear]]:
    """A written model and the layers of its source."""
    graph = opened(model(TEXT, WEIGHTS), folder)
    return rewritten(graph, folder / "out"), linears(graph)


def changed(path: Path, name: str, change: Callable[[Array], Array]) -> OnnxGraph:
    """The written model with one weight altered."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    return opened(proto, path.parent)


def test_every_use_is_counted(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    checks = VerifyPattern().call(graph=OnnxGraph(path), linears=layers).uses
    assert [(check.node, check.weight, check.groups, check.violations) for check in checks] == [
        ("first", "u", 32, 0),
        ("second", "v", 32, 0),
        ("third", "w", 8, 0),
    ]


def third_survivor(array: Array) -> Array:
    array[np.flatnonzero(array[:4, 5] == 0)[0], 5] = 1e-30
    return array


def negative_zero(array: Array) -> Array:
    array[np.flatnonzero(array[:4, 5] == 0)[0], 5] = -0.0
    return array


def wrong_axis(array: Array) -> Array:
    """2:4, but along N."""
    dense = WEIGHTS["u"].reshape(8, 4, 4)
    order = np.abs(dense).argsort(-1)
    out = dense.copy()
    np.put_along_axis(out, order[..., :2], 0, -1)
    return out.reshape(array.shape)


def other_row(array: Array) -> Array:
    """Shifted by one: two of four, but of four that do not begin at a multiple of four."""
    return np.roll(array, 1, axis=0)


@pytest.mark.parametrize("fault", [third_survivor, negative_zero, wrong_axis, other_row, lambda _: WEIGHTS["u"]])
def test_a_planted_fault_is_found(fault: Callable[[Array], Array], tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    with pytest.raises(PatternError, match=r"weight u at node first: \d+ of 32 groups are not 2:4"):
        VerifyPattern().call(graph=changed(path, "u", fault), linears=layers)


def test_a_lone_fault_is_one_group(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    sentence = (
        "weight u at node first: 1 of 32 groups are not 2:4. Expected at most two non-zero entries in each. "
        "Please report this."
    )
    with pytest.raises(PatternError, match=f"^{re.escape(sentence)}$"):
        VerifyPattern().call(graph=changed(path, "u", third_survivor), linears=layers)


def test_a_use_that_has_vanished_is_found(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    proto = onnx.load(path)
    proto.graph.node[0].op_type = "Add"
    with pytest.raises(PatternError, match="node first is no longer a linear layer with a constant weight"):
        VerifyPattern().call(graph=opened(proto, tmp_path), linears=layers)


def test_a_weight_that_became_an_input_is_found(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    proto = onnx.load(path)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("v", 1, [8, 16]))
    proto.graph.initializer.remove(next(tensor for tensor in proto.graph.initializer if tensor.name == "v"))
    with pytest.raises(PatternError, match="node second is no longer"):
        VerifyPattern().call(graph=opened(proto, tmp_path), linears=layers)


SHARED = """g (float[n,8] x) => (float[n,16] y) {
    [first] a = MatMul(x, u) [second] b = MatMul(x, u) c = Add(a, b) [other] y = MatMul(c, v) }"""


@pytest.mark.parametrize("lost", ["first", "second"])
def test_each_use_of_a_shared_weight_is_missed_when_it_vanishes(lost: str, tmp_path: Path) -> None:
    graph = opened(model(SHARED, {"u": normal(8, 8), "v": normal(8, 16)}), tmp_path)
    layers = linears(graph)
    assert [use.node for use in layers[0].uses] == ["first", "second"]
    path = rewritten(graph, tmp_path / "out")
    found = VerifyPattern().call(graph=OnnxGraph(path), linears=layers)
    assert [check.node for check in found.uses] == [
        "first",
        "second",
        "other",
    ]
    proto = onnx.load(path)
    (node,) = (node for node in proto.graph.node if node.name == lost)
    node.op_type = "Identity"
    node.input[:] = ["x"]  # the other use stays as it is
    with pytest.raises(PatternError, match=f"^node {lost} is no longer a linear layer with a constant weight\\.$"):
        VerifyPattern().call(graph=opened(proto, tmp_path), linears=layers)


def test_of_several_vanished_uses_the_first_by_name_is_told(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    proto = onnx.load(path)
    proto.graph.node[2].op_type = proto.graph.node[3].op_type = "Mul"
    with pytest.raises(PatternError, match=r"^node second is no longer"):
        VerifyPattern().call(graph=opened(proto, tmp_path), linears=layers)


def test_layers_that_were_not_pruned_are_not_checked(tmp_path: Path) -> None:
    path, layers = sparse(tmp_path)
    graph = changed(path, "u", lambda _: WEIGHTS["u"])
    assert [check.node for check in VerifyPattern().call(graph=graph, linears=layers[1:]).uses] == ["second", "third"]


def test_a_node_that_no_pass_prunes_is_not_checked(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) {
        a = MatMul(x, u) b = Einsum<equation = "nk,km->nm">(a, v) y = MatMul(b, w) }"""
    graph = opened(model(text, {"u": normal(8, 8), "v": normal(8, 8), "w": normal(8, 4)}), tmp_path)
    path = rewritten(graph, tmp_path / "out")
    einsum = replace(linears(graph)[0], weight="v", uses=())  # asked for, and not a use that is recognised
    checks = VerifyPattern().call(graph=OnnxGraph(path), linears=[*linears(graph), einsum]).uses
    assert [check.weight for check in checks] == ["u", "w"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    def spoilt(array: Array) -> Array:
        array[np.nonzero(array)[0][0], np.nonzero(array)[1][0]] = value
        return array

    path, layers = sparse(tmp_path)
    with pytest.raises(PatternError, match=r"^weight u at node first holds NaN or Inf\. Please report this\.$"):
        VerifyPattern().call(graph=changed(path, "u", spoilt), linears=layers)


def test_a_new_use_along_the_other_axis_is_found(tmp_path: Path) -> None:
    graph = opened(model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, u) }", {"u": normal(8, 8)}), tmp_path)
    path = rewritten(graph, tmp_path / "out")
    proto = onnx.load(path)
    proto.graph.node.extend(
        [onnx.helper.make_node("Gemm", ["x", "u"], ["z"], transB=1), onnx.helper.make_node("Relu", ["z"], ["r"])]
    )
    with pytest.raises(PatternError, match="weight u at node Gemm:z"):
        VerifyPattern().call(graph=opened(proto, tmp_path), linears=linears(graph))


@given(arrays.arrays(np.float16, (3, 8), elements=st.sampled_from([0.0, -0.0, 1.0, -2.0, 6e-8])))
def test_a_violation_is_a_group_with_more_than_two_entries_that_are_not_positive_zeros(matrix: Array) -> None:
    expected = sum(
        sum(1 for value in group if value != 0 or np.signbit(value)) > 2
        for row in matrix
        for group in (row[:4], row[4:])
    )
    assert violations(matrix) == expected


FOREIGN = {
    "MatMul": ("g ({t}[2,8] x) => ({t}[2,12] y) {{ y = MatMul(x, w) }}", (8, 12)),
    "MatMul on the left": ("g ({t}[8,2] x) => ({t}[12,2] y) {{ y = MatMul(w, x) }}", (12, 8)),
    "MatMul of rank 3": ("g ({t}[2,3,8] x) => ({t}[2,3,12] y) {{ y = MatMul(x, w) }}", (8, 12)),
    "Gemm": ("g ({t}[2,8] x) => ({t}[2,12] y) {{ y = Gemm(x, w) }}", (8, 12)),
    "Gemm transB": ("g ({t}[2,8] x) => ({t}[2,12] y) {{ y = Gemm<transB = 1>(x, w) }}", (12, 8)),
    "Conv": ("g ({t}[1,8,6,6] x) => ({t}[1,4,4,4] y) {{ y = Conv(x, w) }}", (4, 8, 3, 3)),
    "Conv 1-D": ("g ({t}[1,8,6] x) => ({t}[1,4,6] y) {{ y = Conv(x, w) }}", (4, 8, 1)),
    "Transpose": ("g ({t}[2,8] x) => ({t}[2,12] y) {{ v = Transpose<perm = [1, 0]>(w) y = MatMul(x, v) }}", (12, 8)),
}


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("case", FOREIGN)
def test_polygraphy_agrees(case: str, kind: str, tmp_path: Path) -> None:
    text, shape = FOREIGN[case]
    dense = model(text.format(t=kind), {"w": normal(*shape, dtype=np.float32 if kind == "float" else np.float16)})
    graph = opened(dense, tmp_path)
    path = rewritten(graph, tmp_path / "out")
    assert polygraphys_verdict(dense)[1] == set()
    assert polygraphys_verdict(onnx.load(path)) == ({"w"}, {"w"})
    assert [check.violations for check in VerifyPattern().call(graph=OnnxGraph(path), linears=linears(graph)).uses] == [
        0
    ]
    (layer,) = linears(graph)
    matrix = layer.layout.to_matrix(magnitude(graph, layer))
    matrix = np.ascontiguousarray(matrix)
    matrix[0, :3] = 1
    broken = changed(path, "w", lambda _: layer.layout.from_matrix(matrix))
    assert polygraphys_verdict(broken.proto)[1] == set()
    with pytest.raises(PatternError):
        VerifyPattern().call(graph=broken, linears=[layer])
