"""What the outputs gain from layers left dense, against models that were really written and run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prox24_export.budget.expected_drop import ExpectedDrop, estimate_ratio, fit_temperature
from prox24_export.budget.sensitivity import (
    OutputDistance,
    Restored,
    find_units,
    make_variant,
    measure_sensitivity,
    remember_outputs,
)
from prox24_export.passes.front_onnx.graph import OnnxGraph
from tests.graphs import linears, model, normal, opened, pruned, rewritten, run

DEEP = """g (float[N,16] x) => (float[N,8] y, float[N,16] same) {
    a = MatMul(x, w0) r = Relu(a) d = MatMul(r, w1) e = MatMul(r, w2) t = Add(d, e) y = MatMul(t, w3)
    same = Identity(x) }"""
WEIGHTS = {
    "w0": normal(16, 32) / 4,
    "w1": normal(32, 32, seed=1) / 6,
    "w2": normal(32, 32, seed=2) / 6,
    "w3": normal(32, 8, seed=3) / 3,
}


@pytest.fixture
def graph(tmp_path: Path) -> OnnxGraph:
    return opened(model(DEEP, WEIGHTS), tmp_path)


def test_a_variant_computes_what_the_written_file_does(graph: OnnxGraph, tmp_path: Path) -> None:
    x = {"x": normal(5, 16, seed=7)}
    ours = make_variant(graph, pruned(graph))(x)
    for left, right in zip(ours, run(rewritten(graph, tmp_path), x), strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(make_variant(graph, {})(x), graph.runner()(x), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_output_that_no_node_computes_is_the_same_in_every_variant(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[N,8] y, float[2] fixed) { y = MatMul(x, w) fixed = Identity(c) }"
    small = opened(model(text, {"w": normal(16, 8), "c": normal(2)}), tmp_path)
    _, fixed = make_variant(small, pruned(small))({"x": normal(3, 16)})
    np.testing.assert_array_equal(fixed, normal(2))


@given(dense=st.sets(st.sampled_from(["w0", "w1", "w2", "other"])))
def test_restored_weights_are_those_that_are_not_dense(dense: set[str]) -> None:
    solved = {"w0": normal(2), "w1": normal(3), "w2": normal(4)}
    left = Restored(solved, dense)
    assert set(left) == solved.keys() - dense
    assert len(left) == len(set(left))
    for name in ("w0", "w1", "w2", "other"):
        assert (name in left) == (name in solved and name not in dense)
    for name in left:
        assert left[name] is solved[name]
    for name in dense & solved.keys():
        with pytest.raises(KeyError):
            left[name]


def test_the_loss_is_zero_with_all_dense_and_that_of_the_written_file_with_all_pruned(
    graph: OnnxGraph, tmp_path: Path
) -> None:
    feeds = [{"x": normal(4, 16, seed=seed)} for seed in range(3)]
    distance = OutputDistance(graph, pruned(graph), feeds)
    assert distance.samples == 12
    assert distance.measure(frozenset(WEIGHTS)) == 0
    x = {"x": np.concatenate([feed["x"] for feed in feeds])}
    dense, sparse = graph.runner()(x)[0], run(rewritten(graph, tmp_path), x)[0]
    centred = [side - side.mean(-1, keepdims=True) for side in (dense, sparse)]
    assert distance.measures[0] == "logits"
    scales = [np.square(part - part.mean(0)).mean() for part in np.split(centred[0], 3)]
    wanted = np.square(centred[0] - centred[1]).mean() / np.mean(scales) / 2  # the mean over two outputs, one at 0
    assert distance.measure(frozenset()) == pytest.approx(wanted, rel=1e-4)


def test_dense_outputs_that_are_too_large_to_keep_are_computed_again(
    graph: OnnxGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = [{"x": normal(4, 16, seed=seed)} for seed in range(3)]
    kept = OutputDistance(graph, pruned(graph), feeds).measure({"w1"})
    monkeypatch.setattr("prox24_export.budget.sensitivity.MOST_REMEMBERED", 0)
    assert OutputDistance(graph, pruned(graph), feeds).measure({"w1"}) == kept


def test_the_layer_that_does_all_the_harm_is_found(graph: OnnxGraph) -> None:
    solved = {name: WEIGHTS[name] for name in WEIGHTS} | {"w2": np.zeros_like(WEIGHTS["w2"])}
    found = find_units(graph, linears(graph), {"x": normal(1, 16)})
    distance = OutputDistance(graph, solved, [{"x": normal(16, 16, seed=4)}])
    passes = []
    report = measure_sensitivity(distance, found, {"w": 0.5}, lambda: passes.append(1))
    assert len(passes) == 2 * len(found) + 1
    by_name = {row.layers[0]: row for row in report.units}
    harmful = next(unit.name for unit in found if "w2" in unit.weights)
    assert by_name[harmful].restored == 0
    assert by_name[harmful].alone == report.pruned > 0
    for name, row in by_name.items():
        if name != harmful:
            assert row.restored == report.pruned
            assert row.alone == 0


def test_outputs_are_remembered_for_the_same_feeds_only_and_only_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    batches = [{"x": normal(4)}, {"x": normal(4, seed=1)}]

    def model_(feeds: Any) -> list[Any]:
        calls.append(1)
        return [2 * feeds["x"]]

    monkeypatch.setattr("prox24_export.budget.sensitivity.MOST_REMEMBERED", 4)
    run_ = remember_outputs(model_, batches)
    for _ in range(2):
        for feeds in (*batches, {"x": normal(4, seed=2)}):
            np.testing.assert_array_equal(run_(feeds)[0], 2 * feeds["x"])
    assert len(calls) == 5


def test_an_output_that_overflows_is_infinitely_far(graph: OnnxGraph) -> None:
    solved = pruned(graph) | {"w3": np.full_like(WEIGHTS["w3"], 3e38)}
    assert math.isinf(OutputDistance(graph, solved, [{"x": normal(4, 16)}]).measure(frozenset()))


def test_units_share_the_operations_and_are_stages_where_layers_are_many(graph: OnnxGraph) -> None:
    layers = linears(graph)
    single = find_units(graph, layers, {"x": normal(1, 16)})
    assert [unit.linears for unit in single] == [(layer,) for layer in layers]
    shares = {next(iter(unit.weights)): unit.share for unit in single}
    assert shares["w1"] == pytest.approx(1024 / (512 + 1024 + 1024 + 256))
    assert sum(shares.values()) == pytest.approx(1)
    grouped = find_units(graph, layers, {"x": normal(1, 16)}, most=3)
    assert [sorted(unit.weights) for unit in grouped] == [["w0"], ["w1", "w2"], ["w3"]]
    assert grouped[1].share == pytest.approx(shares["w1"] + shares["w2"])
    assert grouped[1].name.endswith("and 1 beside it")
    assert [unit.stage for unit in grouped] == [0, 1, 2]


@settings(max_examples=30)
@given(st.floats(0.2, 5), st.integers(0, 100))
def test_the_temperature_of_logits_whose_labels_were_drawn_from_them_is_found(wanted: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = 2 * draw.standard_normal((4000, 5))
    gumbel = draw.gumbel(size=logits.shape)
    labels = (logits + gumbel).argmax(-1)  # a sample of softmax(logits)
    assert fit_temperature((wanted * logits).astype(np.float32), labels) == pytest.approx(wanted, rel=0.15)


def test_the_expected_drop_is_the_mean_of_the_measured_one_and_surer() -> None:
    draw = np.random.default_rng(0)
    logits = (2 * draw.standard_normal((20000, 10))).astype(np.float32)
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(-1)
    noisy = logits + draw.normal(scale=0.7, size=logits.shape).astype(np.float32)
    batches = [({"x": np.arange(start, start + 100)}, labels[start : start + 100]) for start in range(0, 20000, 100)]
    expected, error, same = ExpectedDrop(lambda feeds: [3 * logits[feeds["x"]]], batches).estimate(
        lambda feeds: [noisy[feeds["x"]]]
    )
    assert same == error
    hits = 100.0 * (logits.argmax(-1) == labels) - 100.0 * (noisy.argmax(-1) == labels)
    counted, counted_error = estimate_ratio(hits, np.ones(len(hits)))
    assert expected > 10 * error
    assert abs(expected - counted) < 3 * counted_error
    assert error < 0.5 * counted_error
    foretold = ExpectedDrop(lambda feeds: [3 * logits[feeds["x"]]], batches, reported=len(hits))
    _, own, both = foretold.estimate(lambda feeds: [noisy[feeds["x"]]])
    assert own == error
    assert both == pytest.approx(math.hypot(error, counted_error), rel=0.05)
    unchanged = ExpectedDrop(lambda feeds: [logits[feeds["x"]]], batches, 9).estimate(
        lambda feeds: [logits[feeds["x"]]]
    )
    assert unchanged == (0, 0, 0)


def test_probabilities_are_taken_as_such_and_uncounted_labels_left_out() -> None:
    logits = normal(200, 4)
    labels = normal(200, 4, seed=1).argmax(-1)
    labels[::3] = -100
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    other = normal(200, 4, seed=2)
    one = ExpectedDrop(lambda _: [logits], [({}, labels)]).estimate(lambda _: [other])
    two = ExpectedDrop(lambda _: [softmax], [({}, labels)]).estimate(lambda _: [other])
    assert one == pytest.approx(two, rel=1e-3)
    moved = np.where((np.arange(200) % 3 == 0)[:, None], -other, other)
    assert ExpectedDrop(lambda _: [logits], [({}, labels)]).estimate(lambda _: [moved]) == pytest.approx(one)


def test_a_row_with_nan_decides_for_nothing_and_loses_the_whole_probability() -> None:
    logits = np.repeat(np.log([[0.25, 0.75]]), 4, axis=0).astype(np.float32)
    broken = logits.copy()
    broken[:2, 1] = np.nan  # an arg-max of NumPy would find the NaN, and take it for the dense decision
    drop = ExpectedDrop(lambda _: [logits], [({}, np.array([1, 1, 1, 0]))])
    value, _, _ = drop.estimate(lambda _: [broken])
    assert value == pytest.approx(100 * 0.75 / 2, rel=1e-2)


def test_a_ratio_of_one_sample_says_nothing_and_its_error_is_that_of_the_mean() -> None:
    assert estimate_ratio([3.0], [1.0]) == (3.0, math.inf)
    values = normal(50).astype(float)
    mean, error = estimate_ratio(values, np.ones(50))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert math.isnan(estimate_ratio([], [])[0])
