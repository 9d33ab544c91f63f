"""Gates on intervals: what is sure, what is not, and that luck on few samples does not pass."""

from dataclasses import replace

import numpy as np
import pytest

from prox24_export.engines.timing.statistics import judge_interval
from prox24_export.results.engine import Distribution, EngineReport, LatencyPoint, Ratio
from prox24_export.results.report import AccuracyReport, Change, Gate, LayerReport, OutputReport
from prox24_export.settings import Settings
from prox24_export.validation import accuracy, gates


def measured(low: float, value: float, high: float, metric: str = "top1", **more: str) -> AccuracyReport:
    """A metric that changed by `value`, with its interval."""
    return AccuracyReport(
        50,
        {metric: 90.0},
        {metric: 90 + value},
        (),
        (Change(metric, value, low, high, 50),),
        better={**more},  # type: ignore[dict-item]  # a Better
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("change", "verdict", "point"),
    [
        ((-0.9, -0.5, -0.1), "passed", True),
        ((-1.0, -0.5, 0.0), "passed", True),  # up to the limit
        ((-1.4, -0.5, 0.4), "inconclusive", True),
        ((-3.0, -2.0, -0.5), "inconclusive", False),
        ((-3.0, -2.0, -1.2), "failed", False),
    ],
)
def test_a_limit_within_the_interval_is_inconclusive(
    change: tuple[float, float, float], verdict: str, point: bool, strict: bool
) -> None:
    (gate,) = gates.evaluate_gates(Settings(max_accuracy_drop=1.0, strict=strict), measured(*change))
    assert (gate.verdict, gate.low, gate.high) == (verdict, -change[2], -change[0])
    assert gate.passed is (verdict == "passed" if strict else point)


def evaluated_on(samples: int, seed: int) -> AccuracyReport:
    """A dense model that is always right, and a sparse one that is wrong on 4 % of all samples there are."""
    wrong = np.random.default_rng(seed).random(samples) < 0.04
    right = np.tile([0.0, 1.0], (samples, 1))
    sparse = np.where(wrong[:, None], right[:, ::-1], right)
    labels = np.ones(samples, int)
    batches = [({"rows": np.arange(samples)}, labels)]
    return accuracy.compare_models(
        lambda _: [right], lambda _: [sparse], ["y"], batches, samples=samples, tick=lambda: None
    )


def test_a_gate_that_is_met_by_luck_on_50_samples_is_inconclusive_under_strict() -> None:
    """The truth is 4 points, the limit 2: on two draws of 50 in five the figure keeps it all the same."""
    lucky = [report for seed in range(60) if (report := evaluated_on(50, seed)).sparse["top1"] >= 98]
    assert len(lucky) > 10
    for report in lucky:
        (loose,) = gates.evaluate_gates(Settings(max_accuracy_drop=2.0), report)
        assert (loose.passed, loose.verdict) == (True, "inconclusive")
        (strict,) = gates.evaluate_gates(Settings(max_accuracy_drop=2.0, strict=True), report)
        assert (strict.passed, strict.verdict) == (False, "inconclusive")
        assert strict.low is not None
        assert strict.high is not None
        assert strict.low <= 2 < strict.high
    (enough,) = gates.evaluate_gates(Settings(max_accuracy_drop=2.0, strict=True), evaluated_on(20_000, 0))
    assert (enough.passed, enough.verdict) == (False, "failed")
    (kept,) = gates.evaluate_gates(Settings(max_accuracy_drop=5.0, strict=True), evaluated_on(20_000, 0))
    assert (kept.passed, kept.verdict) == (True, "passed")


def test_under_strict_a_figure_without_an_interval_proves_nothing() -> None:
    bare = AccuracyReport(50, {"top1": 90.0}, {"top1": 90.0}, (OutputReport("y", 40.0, 1.0, 0.0, None),))
    found = gates.evaluate_gates(Settings(max_accuracy_drop=1.0, min_snr=20.0, strict=True), bare)
    assert [(gate.passed, gate.verdict) for gate in found] == [(False, "inconclusive")] * 2
    found = gates.evaluate_gates(Settings(max_accuracy_drop=1.0, min_snr=20.0), bare)
    assert [(gate.passed, gate.verdict) for gate in found] == [(True, "passed")] * 2


@pytest.mark.parametrize(
    ("ends", "verdict"), [((21.0, 25.0), "passed"), ((15.0, 25.0), "inconclusive"), ((10.0, 19.0), "failed")]
)
def test_the_snr_s_lower_end_counts_under_strict(ends: tuple[float, float], verdict: str) -> None:
    outputs = (OutputReport("y", sum(ends) / 2, 1.0, 0.0, None, *ends), OutputReport("z", None, 1.0, 0.0, None))
    (gate,) = gates.evaluate_gates(Settings(min_snr=20.0, strict=True), AccuracyReport(9, {}, {}, outputs))
    assert (gate.verdict, gate.low, gate.high, gate.passed) == (verdict, *ends, verdict == "passed")


@pytest.mark.parametrize(
    ("metric", "better", "value", "passed"),
    [
        ("perplexity", "lower", 0.3, True),
        ("perplexity", "lower", 0.7, False),
        ("perplexity", "lower", -9.0, True),
        ("f1", "higher", 9.0, True),
        ("f1", "higher", -0.7, False),
        ("mine", "", 0.7, False),  # no direction is known: either counts
        ("mine", "", -0.7, False),
        ("mine", "", -0.3, True),
    ],
)
def test_a_metric_may_change_so_much_in_its_bad_direction(metric: str, better: str, value: float, passed: bool) -> None:
    told = {metric: better} if better else {}
    (gate,) = gates.evaluate_gates(
        Settings(max_metric_change=0.5), measured(value - 0.1, value, value + 0.1, metric, **told)
    )
    assert (gate.name, gate.passed, gate.verdict) == (
        f"max-metric-change {metric}",
        passed,
        "passed" if passed else "failed",
    )


def test_of_a_metric_without_direction_the_interval_is_that_of_its_size() -> None:
    (gate,) = gates.evaluate_gates(Settings(max_metric_change=0.5, strict=True), measured(-0.6, -0.2, 0.2, "mine"))
    assert gate.value == pytest.approx(0.2)
    assert (gate.low, gate.high, gate.verdict) == (0.0, 0.6, "inconclusive")


def test_every_metric_but_top_1_and_top_5_has_its_gate_and_none_does_not_pass() -> None:
    several = AccuracyReport(9, {"top1": 9, "top5": 9, "a": 1, "b": 2}, {"top1": 0, "top5": 0, "a": 1, "b": 2}, ())
    found = gates.evaluate_gates(Settings(max_metric_change=0.1), several)
    assert [(gate.name, gate.passed) for gate in found] == [
        ("max-metric-change a", True),
        ("max-metric-change b", True),
    ]
    (nothing,) = gates.evaluate_gates(Settings(max_metric_change=0.1), AccuracyReport(9, {"top1": 9}, {"top1": 9}, ()))
    assert (nothing.name, nothing.value, nothing.passed) == ("max-metric-change", None, False)


def times(median: float) -> Distribution:
    return Distribution(100, median, median, median, median, median, median, median, 1000 / median, 0.0)


def point(low: float, value: float, high: float, *, valid: bool = True) -> LatencyPoint:
    ratio = Ratio(value, low, high, judge_interval(low, high))
    reasons = () if valid else ("the GPU was throttled",)
    return LatencyPoint({"x": (1, 8)}, 1, times(value), times(1.0), None, ratio, None, valid, reasons)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        ([point(1.21, 1.3, 1.4)], "passed"),
        ([point(1.1, 1.3, 1.5)], "inconclusive"),
        ([point(1.0, 1.05, 1.1)], "failed"),
        ([point(1.3, 1.4, 1.5), point(1.0, 1.1, 1.15)], "failed"),
        ([point(1.3, 1.4, 1.5, valid=False)], "inconclusive"),
        ([point(1.3, 1.4, 1.5), point(1.6, 1.7, 1.8, valid=False)], "inconclusive"),
        ([], "failed"),
    ],
)
def test_the_speed_up_s_lower_end_at_the_worst_shapes_decides(
    points: list[LatencyPoint], verdict: str, strict: bool
) -> None:
    engine = EngineReport("tensorrt", latency=tuple(points))
    (gate,) = gates.evaluate_gates(Settings(min_speedup=1.2, strict=strict), None, engine=engine)
    assert (gate.name, gate.verdict, gate.passed) == ("min-speedup", verdict, verdict == "passed")
    if points:
        assert gate.low == min(one.speedup.low for one in points)


def test_a_speed_up_that_nothing_measured_does_not_pass() -> None:
    (gate,) = gates.evaluate_gates(Settings(min_speedup=1.0), None)
    assert gate == Gate("min-speedup", None, 1.0, "×", passed=False, verdict="failed")


def layer(index: int, *, sparse: bool = True) -> LayerReport:
    return LayerReport(f"fc{index}", "MatMul", f"w{index}", 8, 8, 64, 0.1, "sparse" if sparse else "dense")


@pytest.mark.parametrize(("left", "passed"), [(0, False), (1, True), (2, True)])
def test_where_nothing_was_left_sparse_one_sparse_layer_is_too_many_to_ask(left: int, passed: bool) -> None:
    layers = [layer(index, sparse=index < left) for index in range(3)]
    (gate,) = gates.evaluate_gates(Settings(min_sparse_layers=1, strict=True), None, layers=layers, is_copy=left == 0)
    assert (gate.value, gate.limit, gate.passed) == (left, 1, passed)


def test_a_byte_copy_changes_nothing_also_under_strict() -> None:
    every = Settings(max_accuracy_drop=0.0, max_metric_change=0.0, min_snr=60.0, strict=True)
    unsure = measured(-3.0, 0.0, 3.0)
    for report in (None, replace(unsure, dense={"top1": 1.0, "f1": 2.0}, sparse={"top1": 1.0, "f1": 2.0})):
        found = gates.evaluate_gates(every, report, is_copy=True)
        assert [gate.passed for gate in found] == [True] * 3
        assert {gate.verdict for gate in found} == {"passed"}
