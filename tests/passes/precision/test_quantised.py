"""Quantised products and their 2:4 pattern, seen against the zero point."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.quantised import find_quantised_products, read_integers, verify_quantised
from prox24_export.passes.verify_pattern import PatternError
from tests.graphs import linears, model, normal, opened
from tests.passes.precision.lowered import X, lower


def quantised(zero: int, *, kind: Any = np.int8, axis: int | None = None) -> tuple[str, dict[str, Array]]:
    """A MatMul with Q→DQ around its activation and its weight."""
    text = f"""g (float[n,8] x) => (float[n,4] y) {{
        qx = QuantizeLinear(x, sx, zx) dx = DequantizeLinear(qx, sx, zx)
        qw = QuantizeLinear<axis = {axis or 0}>(w, sw, zw) dw = DequantizeLinear<axis = {axis or 0}>(qw, sw, zw)
        [mul] y = MatMul(dx, dw) }}"""
    size = () if axis is None else (8, 4)[axis : axis + 1]
    scale = np.full(size, 0.05, np.float32) if axis is None else np.linspace(0.03, 0.08, size[0], dtype=np.float32)
    weights = {"w": normal(8, 4), "sw": scale, "zw": np.full(size, zero, kind)}
    return text, weights | {"sx": np.array(0.1, np.float32), "zx": np.array(0, np.int8)}


@pytest.mark.parametrize(("zero", "kind"), [(0, np.int8), (3, np.int8), (128, np.uint8), (-7, np.int8)])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_zero_is_the_zero_point_after_quantisation(zero: int, kind: Any, axis: int | None, tmp_path: Path) -> None:
    proto = model(*quantised(zero, kind=kind, axis=axis))
    lowered, _ = lower(proto, tmp_path, [X])
    assert not lowered.converted
    assert "quantised" in lowered.notes[0]
    assert lowered.path.read_bytes() == (tmp_path / "sparse" / "model.onnx").read_bytes()
    assert [(check.node, check.groups, check.violations) for check in lowered.verified] == [("mul", 8, 0)]
    with pytest.raises(PatternError, match=r"node mul: 8 of 8 groups of quantised weights are not 2:4"):
        verify_quantised(OnnxGraph(tmp_path / "dense.onnx"), ["mul"])


def stored_integers(zero: int | None, integers: Array) -> onnx.ModelProto:
    given = "" if zero is None else ", z"
    text = f"""g (float[n,8] x) => (float[n,4] y) {{ d = DequantizeLinear(q, s{given}) t = Transpose<perm = [1, 0]>(d)
        [mul] y = MatMul(x, t) }}"""
    weights = {"q": integers, "s": np.array(0.1, np.float32)}
    return model(text, weights if zero is None else weights | {"z": np.array(zero, integers.dtype)})


@pytest.mark.parametrize("zero", [None, 0, 5])
def test_stored_integers_are_looked_at_against_their_zero_point(zero: int | None, tmp_path: Path) -> None:
    point = zero or 0
    integers = np.full((4, 8), point, np.int8)
    integers[:, [0, 3, 5, 6]] = 17
    good = opened(stored_integers(zero, integers), tmp_path)
    assert [check.violations for check in verify_quantised(good, ["mul"])] == [0]
    integers[2, 1] = 18
    with pytest.raises(PatternError, match="1 of 8 groups of quantised"):
        verify_quantised(opened(stored_integers(zero, integers), tmp_path), ["mul"])


def test_integer_zeros_that_are_not_the_zero_point_do_not_count(tmp_path: Path) -> None:
    integers = np.zeros((4, 8), np.int8)
    integers[:, [0, 3, 5, 6]] = 17
    with pytest.raises(PatternError, match="8 of 8 groups"):
        verify_quantised(opened(stored_integers(5, integers), tmp_path), ["mul"])


def test_zero_points_of_blocks(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { d = DequantizeLinear<axis = 0, block_size = 4>(q, s, z) [mul]
        y = MatMul(x, d) }"""
    zero = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
    integers = np.repeat(zero, 4, axis=0)
    integers[[0, 1, 6, 7]] += 1
    weights: dict[str, Array] = {"q": integers, "s": np.full((2, 4), 0.1, np.float32), "z": zero}
    graph = opened(model(text, weights, opset=21, ir=10), tmp_path)
    assert [check.violations for check in verify_quantised(graph, ["mul"])] == [0]
    with pytest.raises(PatternError, match="groups of quantised"):
        verify_quantised(opened(model(text, weights | {"z": zero[::-1].copy()}, opset=21, ir=10), tmp_path), ["mul"])


def test_a_node_without_a_weight_is_found(tmp_path: Path) -> None:
    graph = opened(model(*quantised(0)), tmp_path)
    with pytest.raises(PatternError, match="node other is no linear layer"):
        verify_quantised(graph, ["other"])


def test_quantised_products_and_their_quantised_results_are_told(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (float[N,8] y, float[N,8] z) {
        q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o)
        wq = QuantizeLinear(w, s, o) wd = DequantizeLinear(wq, s, o)
        [inner] a = MatMul(d, wd) b = Add(a, bias) r = Relu(b)
        rq = QuantizeLinear(r, s, o) rd = DequantizeLinear(rq, s, o)
        [last] y = MatMul(rd, wd)
        [plain] z = MatMul(x, v)
    }"""
    zero, scale = np.zeros((), np.int8), np.array(0.05, np.float32)
    weights = {"w": normal(8, 8), "v": normal(8, 8), "bias": normal(8), "s": scale, "o": zero}
    graph = opened(model(text, weights), tmp_path)
    assert find_quantised_products(graph) == ({"inner", "last"}, {"inner"})


def test_products_of_stored_integers_are_told(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (float[N,8] y) {
        q = QuantizeLinear(x, s, o) d = DequantizeLinear(q, s, o) wd = DequantizeLinear(w, s, o)
        [inner] a = MatMul(d, wd) r = Relu(a) rq = QuantizeLinear(r, s, o) rd = DequantizeLinear(rq, s, o)
        vd = DequantizeLinear<axis = 0, block_size = 4>(v, t) [last] y = MatMul(rd, vd) }"""
    integers = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
    weights: dict[str, Array] = {"w": integers, "v": integers, "s": np.array(0.05, np.float32)}
    graph = opened(
        model(text, weights | {"o": np.zeros((), np.int8), "t": np.ones((2, 8), np.float32)}, opset=21, ir=10), tmp_path
    )
    assert find_quantised_products(graph) == ({"inner", "last"}, {"inner"})
    looked_at = read_integers(graph)
    assert looked_at.stored("w").dtype == np.int8  # a layer as it is stored, under its own name
    np.testing.assert_array_equal(looked_at.stored("vd"), integers.astype(np.float32))
    assert [layer.weight for layer in linears(looked_at)] == ["w", "vd"]
