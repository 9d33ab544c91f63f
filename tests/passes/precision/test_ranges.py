"""Observed values: the same in parts of any size, and rounded where that is asked for."""

from pathlib import Path

import numpy as np
import pytest

from prox24_export.passes.precision.ranges import observe
from tests.graphs import (
    BF16,
    model,
    normal,
    opened,
)
from tests.passes.precision.lowered import TWO, TWO_WEIGHTS, X


def test_parts_of_any_size_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = opened(model(TWO, TWO_WEIGHTS), tmp_path)
    whole = observe(graph, [X])
    for name, value in (("AT_ONCE", 3), ("BYTES_AT_ONCE", 1)):
        monkeypatch.setattr(f"prox24_export.passes.precision.ranges.{name}", value)
        parts = observe(graph, [X])
        assert parts.ranges.keys() == whole.ranges.keys() == {"a", "b", "d", "y"}
        np.testing.assert_allclose(parts.outputs[0]["y"], whole.outputs[0]["y"], rtol=1e-5)


def test_every_value_is_rounded_when_it_is_observed_so(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { a = Cast<to = 10>(x) b = Mul(a, k) c = Div(b, k) y = Cast<to = 1>(c) }"
    graph = opened(model(text, {"k": np.array(40000, np.float16)}), tmp_path)
    feeds = [{"x": np.full((1, 8), 2, np.float32)}]
    seen = observe(graph, feeds, rounded=True)
    assert [name for name, found in seen.ranges.items() if not found.finite] == ["b", "c", "y"]


def test_bfloat16_values_are_rounded_although_a_float32_copy_runs(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,8] y) { a = Cast<to = 16>(x) b = Add(a, k) c = Sub(b, k)
        d = HardSigmoid(c) e = Add(c, d) f = Sub(e, d) y = Cast<to = 1>(f) }"""
    graph = opened(model(text, {"k": np.array(1, BF16)}, opset=22, ir=10), tmp_path)
    assert graph.runs_in_float32 == ("bfloat16",)
    x = normal(3, 8)
    (seen,) = observe(graph, [{"x": x}], rounded=True).outputs
    a = x.astype(BF16)
    c = (a + BF16.type(1)) - BF16.type(1)
    d = np.clip(BF16.type(0.2).astype(np.float32) * c.astype(np.float32) + 0.5, 0, 1).astype(BF16)
    np.testing.assert_allclose(seen["y"], ((c + d) - d).astype(np.float32), atol=2.0**-7)
    (loose,) = observe(graph, [{"x": x}]).outputs
    assert np.abs(loose["y"] - x).max() < 1e-5 < np.abs(seen["y"] - x).max()
