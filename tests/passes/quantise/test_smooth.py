"""Smoothing: exact where it is done, and not done elsewhere."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise.prepare import prepare_copy
from prox24_export.passes.quantise.smooth import WIDEST, SmoothGroup, choose_factors, find_smooth_groups, smooth
from tests.graphs import model, normal, opened, run
from tests.passes.quantise.quantised import place

NORM = """g (float[N,8] x) => (float[N,4] y) { n = LayerNormalization(x, s, b)
  [one] a = MatMul(n, w) [two] c = MatMul(n, v) y = Add(a, c) }"""
BY_HAND = """g (float[N,8] x) => (float[N,4] y) { m = Mul(x, s) n = Add(m, b)
  [one] a = MatMul(n, w) [two] c = MatMul(n, v) y = Add(a, c) }"""
ALSO_READ = NORM.replace("y = Add(a, c)", "d = Add(a, c) e = ReduceMean<axes = [1]>(n) y = Add(d, e)")
WEIGHTS = {"s": 1 + normal(8), "b": normal(8), "w": normal(8, 4), "v": normal(8, 4, seed=1)}
VECTORS = arrays.arrays(np.float32, 6, elements=st.floats(0, 2.0**60, width=32))


def groups(proto: onnx.ModelProto, folder: Path) -> tuple[OnnxGraph, list[SmoothGroup]]:
    source = opened(proto, folder)
    graph = OnnxGraph(source.path, prepare_copy(source)[0])
    nodes = {str(node.name): node for node in ir.from_proto(graph.proto).graph}
    return graph, find_smooth_groups(graph, nodes, place(proto, folder))


@pytest.mark.parametrize("text", [NORM, BY_HAND])
def test_the_model_computes_the_same_and_zeros_stay(tmp_path: Path, text: str) -> None:
    weights = {**WEIGHTS, "w": WEIGHTS["w"] * (normal(8, 4, seed=5) > 0)}
    graph, found = groups(model(text, weights), tmp_path)
    (group,) = found
    assert {weight.name for weight in group.weights} == {"w", "v"}
    largest = np.array([100, 0, *range(1, 7)], np.float32)
    smoothed = smooth(graph, found, {group.activation: largest}, 0.5)
    feeds = {"x": normal(5, 8, seed=3)}
    np.testing.assert_allclose(run(smoothed, feeds)[0], run(graph.proto, feeds)[0], rtol=1e-4, atol=1e-5)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in smoothed.graph.initializer}
    np.testing.assert_array_equal(stored["w"] == 0, weights["w"] == 0)
    moved = np.abs(stored["w"]).max(1) / np.maximum(np.abs(weights["w"]).max(1), 1e-9)
    assert moved[0] > 2 * moved[2], "nothing moved: the test tests nothing"


def test_where_something_else_reads_the_activation_nothing_is_smoothed(tmp_path: Path) -> None:
    assert groups(model(ALSO_READ, WEIGHTS), tmp_path)[1] == []


@pytest.mark.parametrize(
    "text",
    [
        "n = Relu(x) [one] y = MatMul(n, w)",
        "n = LayerNormalization<axis = 0>(x, t) [one] y = MatMul(n, w)",
        "m = Mul(x, one) n = Add(m, b) [one] y = MatMul(n, w)",
    ],
)
def test_no_norm_along_the_last_axis_no_smoothing(tmp_path: Path, text: str) -> None:
    more = {"t": normal(2, 8), "one": np.ones((1,), np.float32)}
    proto = model(f"g (float[2,8] x) => (float[2,4] y) {{ {text} }}", {**WEIGHTS, **more})
    assert groups(proto, tmp_path)[1] == []


@given(VECTORS, VECTORS, st.floats(0, 1))
def test_factors_are_positive_and_bounded(largest: Array, columns: Array, alpha: float) -> None:
    factors = choose_factors(largest, columns, alpha)
    assert factors.dtype == np.float32
    assert ((factors >= np.float32(1 / WIDEST)) & (factors <= np.float32(WIDEST))).all()
    np.testing.assert_array_equal(factors[(largest == 0) | (columns == 0)], 1)
