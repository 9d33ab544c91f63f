"""What is chosen on held-back batches is what leaves the least error there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.written_files import save_model
from prox24_export.passes.quantise.choose import Calibrated, Trials
from prox24_export.passes.quantise.observe import observe_magnitudes
from prox24_export.passes.quantise.outputs import compare_outputs, run_float, run_model
from prox24_export.passes.quantise.prepare import prepare_copy
from prox24_export.passes.quantise.scales import SCALE_METHODS
from tests.graphs import model, normal, opened
from tests.passes.quantise.quantised import FEEDS, layers, place

NORM = """g (float[N,16] x) => (float[N,8] y) { n = LayerNormalization(x, s, b) a = MatMul(n, w) y = Tanh(a) }"""
OF_NORM = {"s": np.array([40, 30] + [0.5] * 14, np.float32), "b": normal(16), "w": normal(16, 8) / 4}
OUTLIER = {"x": np.where(np.arange(16 * 50).reshape(50, 16) == 7, 400, normal(50, 16)).astype(np.float32)}


def trials(
    proto: onnx.ModelProto, folder: Path, feeds: Sequence[Mapping[str, Array]], held_back: Sequence[Mapping[str, Array]]
) -> Trials:
    graph = opened(proto, folder)
    source = OnnxGraph(graph.path, prepare_copy(graph)[0])
    wanted = run_float(graph, held_back)
    (folder / "trials").mkdir()
    return Trials(source, place(proto, folder / "placed"), feeds, held_back, wanted, folder / "trials")


def error(which: Trials, candidate: Calibrated) -> float:
    """The error of a candidate, measured apart from the choice."""
    file = which.folder / "it.onnx"
    save_model(which.build(candidate), file, external=False)
    found = compare_outputs(which.wanted, run_model(file, which.source.outputs, which.held_back))
    file.unlink()
    return sum(found.values())


def test_a_range_that_one_outlier_stretches_is_not_taken(tmp_path: Path) -> None:
    which = trials(layers(), tmp_path, [OUTLIER, *FEEDS], FEEDS)
    seen = observe_magnitudes(which.source, which.feeds, which.places.readers.keys()).histograms
    chosen = which.choose(seen, SCALE_METHODS, ())
    assert chosen.methods["layer"] in {"99.9 %", "99.99 %"}
    errors = {
        method: error(which, replace(chosen, methods={"layer": method, "residual": method}, rounded={}))
        for method in SCALE_METHODS
    }
    assert errors[chosen.methods["layer"]] == min(errors.values())
    assert errors["largest"] > 3 * min(errors.values()), "any method would do: the test tests nothing"
    assert list(which.folder.iterdir()) == []


@pytest.mark.parametrize(("scale", "smoothed"), [(OF_NORM["s"], True), (np.ones(16, np.float32), False)])
def test_smoothing_is_taken_only_where_it_helps(tmp_path: Path, scale: Array, smoothed: bool) -> None:
    which = trials(model(NORM, {**OF_NORM, "s": scale, "b": np.zeros(16, np.float32)}), tmp_path, FEEDS[:3], FEEDS[3:])
    seen = observe_magnitudes(which.source, which.feeds, which.places.readers.keys()).histograms
    plain, chosen = which.choose(seen, SCALE_METHODS, ()), which.choose(seen, SCALE_METHODS, (0.5, 0.75))
    assert (chosen.alpha > 0) or not smoothed
    assert error(which, chosen) <= error(which, plain)
    assert f"alpha = {chosen.alpha:g}" in chosen.sentence or not chosen.alpha


def test_with_nothing_held_back_the_first_method_is_taken(tmp_path: Path) -> None:
    which = trials(layers(), tmp_path, FEEDS, ())
    seen = observe_magnitudes(which.source, which.feeds, which.places.readers.keys()).histograms
    chosen = which.choose(seen, SCALE_METHODS, (0.5,))
    assert (set(chosen.methods.values()), chosen.alpha) == ({"mse"}, 0.0)
    assert chosen.rounded.keys() == {"w", "v"}


def test_weights_are_rounded_together_only_where_it_helps(tmp_path: Path) -> None:
    mix = normal(16, 3, seed=8) @ normal(3, 16, seed=9) / 4  # what rounding does in thirteen directions does not matter
    feeds = [{"x": feed["x"] @ mix} for feed in FEEDS]
    which = trials(layers(), tmp_path, feeds[:3], feeds[3:])
    seen = observe_magnitudes(which.source, which.feeds, which.places.readers.keys()).histograms
    chosen = which.choose(seen, SCALE_METHODS, ())
    assert chosen.rounded.keys() == {"w", "v"}
    assert "weights rounded: together" in chosen.sentence
    nearest = replace(chosen, rounded={})
    assert "weights rounded: nearest" in nearest.sentence
    assert error(which, chosen) < error(which, nearest)
    unlike = replace(which, feeds=[{"x": np.zeros((4, 16), np.float32)}])  # nothing can be learnt from these
    assert error(which, unlike.choose(seen, SCALE_METHODS, ())) <= error(which, nearest)
