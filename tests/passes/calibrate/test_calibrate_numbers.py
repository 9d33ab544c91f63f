"""NaN, Inf, huge and missing activations in calibration: named, or summed exactly."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from prox24_export.errors import InputError
from tests.graphs import Walk, normal, opened
from tests.passes.calibrate.networks import GRAPHS, uvw


@pytest.mark.parametrize(("bad", "text"), [(np.nan, "a = Relu(x)"), (200.0, "a = Exp(x)")], ids=["NaN", "overflow"])
def test_nan_or_inf_is_an_error_that_names_layer_and_batch(bad: float, text: str, tmp_path: Path) -> None:
    proto = uvw(
        f"g (float[n,8] x) => (float[n,8] y) {{ b = MatMul(x, u) {text} c = Add(a, b) [deep] y = MatMul(a, v) }}"
    )
    proto.graph.node.insert(0, proto.graph.node.pop(1))
    feeds = [{"x": normal(4, 8)}, {"x": normal(4, 8)}]
    feeds[1]["x"][2, 3] = bad
    with pytest.raises(
        InputError, match=r"NaN or Inf in the activations of layer (deep|MatMul:b), calibration batch 1"
    ):
        Walk(opened(proto, tmp_path), feeds)


def test_an_overflow_behind_a_layer_is_named_there(tmp_path: Path) -> None:
    proto = uvw("g (float[n,8] x) => (float[n,8] y) { [one] a = MatMul(x, u) b = Exp(a) [two] y = MatMul(b, v) }")
    said = "activations of layer two, calibration batch 2, as the dense network computes them: .* --exclude 'two'"
    with pytest.raises(InputError, match=said):
        Walk(opened(proto, tmp_path), [{"x": scale * normal(4, 8)} for scale in (1, 1, 500)])


def test_an_overflow_of_the_pruned_network_alone_is_told_as_such(tmp_path: Path) -> None:
    """Two entries of the first weight cancel each other in the dense network, and one of them is pruned."""
    proto = uvw("g (float[n,8] x) => (float[n,8] y) { [one] a = MatMul(x, u) b = Exp(a) [two] y = MatMul(b, v) }")
    weight = np.zeros((8, 8), np.float32)
    weight[:4, 0] = 50, 40, -40, -40
    (stored,) = (tensor for tensor in proto.graph.initializer if tensor.name == "u")
    stored.CopyFrom(onnx.numpy_helper.from_array(weight, "u"))
    said = "layer two, calibration batch 0, as the pruned network computes them: .* --exclude 'two', or a layer before"
    with pytest.raises(InputError, match=said):
        Walk(opened(proto, tmp_path), [{"x": 2 * np.ones((4, 8), np.float32)}])


def test_huge_but_finite_activations_are_summed_in_float64(tmp_path: Path) -> None:
    x = normal(6, 8) * np.float32(1e25)
    seen = Walk(opened(uvw(GRAPHS["residual branches"]), tmp_path), [{"x": x}]).seen
    exact = x.astype(np.float64).T @ x.astype(np.float64)
    (first, *_) = seen.values()
    np.testing.assert_allclose(first.fit.gram.numpy(), exact, rtol=1e-12)
    assert all(bool(torch.isfinite(moments.fit.gram).all()) for moments in seen.values())


def test_totals_over_batches_keep_what_float32_would_lose(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, u) }"
    large, small = np.full((1, 8), 4096, np.float32), np.ones((1, 8), np.float32)
    (seen,) = Walk(opened(uvw(text), tmp_path), [{"x": large}] + 9 * [{"x": small}]).seen.values()
    assert float(seen.fit.gram[0, 0]) == 4096.0**2 + 9  # 2²⁴ + 1 is no float32


def test_a_batch_without_tokens_counts_none(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { a = MatMul(x, u) y = MatMul(a, v) }"
    graph = opened(uvw(text), tmp_path)
    empty, full = {"x": np.zeros((0, 8), np.float32)}, {"x": normal(3, 8)}
    for seen in Walk(graph, [empty]).seen.values():
        assert seen.fit.tokens == 0
        assert not seen.fit.gram.any()
    for seen in Walk(graph, [empty, full]).seen.values():
        assert seen.fit.tokens == 3
