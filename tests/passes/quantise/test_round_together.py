"""Weights rounded together: for what their layers read once it is quantised, wherever the activation is shared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise import round_together as module
from prox24_export.passes.quantise.insert import round_nearest
from prox24_export.passes.quantise.observe import iterate_values
from prox24_export.passes.quantise.prepare import prepare_copy
from prox24_export.passes.quantise.round_together import quantise_values, round_together
from prox24_export.passes.quantise.scales import LAST
from tests.graphs import model, normal, opened
from tests.passes.quantise.quantised import LAYERS, fake_quantise, place

MIX = normal(16, 16, seed=9) * np.geomspace(1, 0.03, 16, dtype=np.float32)[:, None]
FEEDS = [{"x": normal(64, 16, seed=seed) @ MIX} for seed in range(4)]  # correlated: some errors make good others
WEIGHTS = {"w": normal(16, 12), "c": normal(12), "v": normal(8, 12), "e": normal(8)}
WEIGHTS["w"] = WEIGHTS["w"] * (normal(16, 12, seed=5) > 0)
CONV = """g (float[N,4,6,6] x) => (float[N,8,6,6] y) { y = Conv<pads = [1,1,1,1]>(x, w) }"""
TWICE = """g (float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"""


def loss(read: Array, weight: Array, rounded: Array) -> Array:
    """Of each output channel, what the rounding changes in the product."""
    result: Array = np.square(read @ (rounded - weight)).sum(0)
    return result


def round_layers(proto: onnx.ModelProto, folder: Path, scales: dict[str, float]) -> dict[str, tuple[Array, Array]]:
    graph = OnnxGraph((source := opened(proto, folder)).path, prepare_copy(source)[0])
    return round_together(graph, place(proto, folder), scales, FEEDS)


def test_values_are_rounded_as_the_file_does() -> None:
    values = np.linspace(-3, 3, 1001, dtype=np.float32)
    np.testing.assert_array_equal(quantise_values(values, 0.01), fake_quantise(values, 0.01))


def test_what_the_layer_then_reads_changes_less_than_by_the_nearest_integers(tmp_path: Path) -> None:
    proto = model(LAYERS, WEIGHTS)
    scales = {"x": 0.05, "d": 0.05}
    found = round_layers(proto, tmp_path, scales)
    assert found.keys() == {"w", "v"}
    integers, channels = found["w"]
    assert integers.dtype == np.int8
    assert integers.shape == WEIGHTS["w"].shape
    assert np.abs(integers.astype(int)).max() <= LAST
    assert not integers[WEIGHTS["w"] == 0].any()
    read = fake_quantise(np.concatenate([feed["x"] for feed in FEEDS]), 0.05).astype(np.float64)
    near, ends = round_nearest(WEIGHTS["w"], place(proto, tmp_path).weights["w"], search=True)
    ours, theirs = (loss(read, WEIGHTS["w"], q * s) for q, s in ((integers, channels), (near, ends)))
    assert ours.sum() < 0.6 * theirs.sum()


def test_a_convolution_is_rounded_along_its_patches(tmp_path: Path) -> None:
    proto = model(CONV, {"w": normal(8, 4, 3, 3)})
    graph = OnnxGraph((source := opened(proto, tmp_path)).path, prepare_copy(source)[0])
    feeds = [{"x": normal(8, 4, 6, 6, seed=seed)} for seed in range(3)]
    ((integers, channels),) = round_together(graph, place(proto, tmp_path), {"x": 0.02}, feeds).values()
    assert integers.shape == (8, 4, 3, 3)
    assert channels.shape == (8,)
    np.testing.assert_allclose(integers * channels[:, None, None, None], normal(8, 4, 3, 3), atol=0.05)


def test_a_weight_that_two_nodes_multiply_by_is_rounded_for_both(tmp_path: Path) -> None:
    proto = model(TWICE, {"w": normal(16, 16) / 4})
    (found,) = round_layers(proto, tmp_path, {"x": 0.05, "b": 0.02}).items()
    assert found[0] == "w"
    read = fake_quantise(np.concatenate([feed["x"] for feed in FEEDS]), 0.05)
    hidden = fake_quantise(np.maximum(np.concatenate([feed["x"] for feed in FEEDS]) @ (normal(16, 16) / 4), 0), 0.02)
    both = np.concatenate([read, hidden]).astype(np.float64)
    near, ends = round_nearest(normal(16, 16) / 4, place(proto, tmp_path).weights["w"], search=True)
    weight = normal(16, 16) / 4
    assert loss(both, weight, found[1][0] * found[1][1]).sum() < 0.7 * loss(both, weight, near * ends).sum()


def test_little_memory_takes_more_passes_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, scales, calls = model(LAYERS, WEIGHTS), {"x": 0.05, "d": 0.05}, []
    whole = round_layers(proto, tmp_path, scales)
    monkeypatch.setattr(module, "AT_ONCE", 1)

    def counted(graph: OnnxGraph, *arguments: Any) -> Iterator[dict[str, Array]]:
        calls.append(graph)
        return iterate_values(graph, *arguments)

    monkeypatch.setattr(module, "iterate_values", counted)
    parted = round_layers(proto, tmp_path, scales)
    assert len(calls) == 2
    for name, (integers, channels) in whole.items():
        np.testing.assert_array_equal(parted[name][0], integers)
        np.testing.assert_array_equal(parted[name][1], channels)
