"""Gates on intervals: what is sure, what is not, and that luck on few samples does not pass."""

from dataclasses import replace

import numpy as np
import pytest

from prox24_export.engines.timing.statistics import judge_interval
from prox24_export.results.change import Change
from prox24_export.results.engine import Distribution, EngineReport, LatencyPoint, Ratio
from prox24_export.results.report import AccuracyReport, Gate, LayerReport, OutputReport
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


@pytest.mark.parametrize(
    ("better", "change", "expected"),
    [
        ("lower", (-0.3, 0.1, 0.7), (0.1, -0.3, 0.7)),
        ("higher", (-0.3, 0.1, 0.7), (-0.1, -0.7, 0.3)),
        ("", (-0.3, -0.1, 0.7), (0.1, 0.0, 0.7)),  # either side of no change
        ("", (-0.7, -0.5, 0.3), (0.5, 0.0, 0.7)),
        ("", (0.0, 0.1, 0.3), (0.1, 0.0, 0.3)),
        ("", (-0.3, -0.1, 0.0), (0.1, 0.0, 0.3)),
        ("", (-0.7, -0.5, -0.3), (0.5, 0.3, 0.7)),  # all of it on one side
        ("", (0.3, 0.5, 0.7), (0.5, 0.3, 0.7)),
        ("", (0.1, 0.5, 0.7), (0.5, 0.1, 0.7)),
    ],
)
def test_by_how_much_a_metric_got_worse_has_the_interval_of_its_change(
    better: str, change: tuple[float, float, float], expected: tuple[float, float, float]
) -> None:
    other = Change("other", 9.0, 8.0, 10.0, 50)  # of another metric: neither the first nor the last counts
    mine = Change("mine", change[1], change[0], change[2], 50)
    report = AccuracyReport(50, {"mine": 0.0}, {"mine": change[1]}, (), (other, mine, replace(other, metric="z")))
    assert gates.measure_worsening(report, "mine", better) == pytest.approx(expected)
    unsure = gates.measure_worsening(replace(report, changes=(other,)), "mine", better)
    assert unsure == pytest.approx((expected[0], None, None))


def test_no_change_of_a_metric_whose_higher_values_are_better_is_not_minus_zero() -> None:
    figure = gates.measure_worsening(measured(0.0, 0.0, 0.0), "top1", "higher")
    assert figure is not None
    assert [str(end) for end in figure] == ["0.0"] * 3


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        ((1.0, 0.5, None), "passed"),  # half an interval is none
        ((1.0, None, 1.0), "passed"),
        ((1.0, 1.0, 1.0), "passed"),
        ((2.0, 0.5, None), "failed"),
        ((2.0, None, 0.5), "failed"),
        ((2.0, 0.5, 0.9), "inconclusive"),  # a figure outside its interval, as a resampling may give
        ((1.0, 1.0, 1.1), "inconclusive"),
        ((1.2, 1.1, 1.3), "failed"),
    ],
)
def test_an_upper_limit_of_1_is_kept_by_figures_up_to_it(
    figure: tuple[float, float | None, float | None], verdict: str
) -> None:
    gate = gates.check_at_most("drop", figure, 1.0, "points", strict=False)
    passed = figure[0] <= 1.0
    assert gate == Gate("drop", figure[0], 1.0, "points", passed, verdict, *figure[1:])  # type: ignore[arg-type]
    sure = verdict if None not in figure or verdict == "failed" else "inconclusive"
    strict = gates.check_at_most("drop", figure, 1.0, "points", strict=True)
    assert strict == replace(gate, passed=passed and sure == "passed", verdict=sure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        ((1.0, None, 1.5), "passed"),  # half an interval is none
        ((1.0, 1.0, None), "passed"),
        ((1.0, 1.0, 1.0), "passed"),
        ((0.5, None, 1.5), "failed"),
        ((0.5, 0.4, None), "failed"),
        ((0.5, 1.1, 1.2), "inconclusive"),  # a figure outside its interval, as a resampling may give
        ((1.0, 0.9, 1.0), "inconclusive"),
        ((0.9, 0.8, 1.0), "inconclusive"),
        ((0.8, 0.7, 0.9), "failed"),
    ],
)
def test_a_lower_limit_of_1_is_kept_by_figures_from_it_on(
    figure: tuple[float, float | None, float | None], verdict: str
) -> None:
    gate = gates.check_at_least("snr", figure, 1.0, "dB", strict=False)
    passed = figure[0] >= 1.0
    assert gate == Gate("snr", figure[0], 1.0, "dB", passed, verdict, *figure[1:])  # type: ignore[arg-type]
    sure = verdict if None not in figure or verdict == "failed" else "inconclusive"
    strict = gates.check_at_least("snr", figure, 1.0, "dB", strict=True)
    assert strict == replace(gate, passed=passed and sure == "passed", verdict=sure)  # type: ignore[arg-type]


def test_the_last_figure_that_rounding_allows_is_still_kept_and_the_next_is_not() -> None:
    last = 1.0 + gates.ROUNDING
    beyond = float(np.nextafter(last, 2.0))
    for strict in (False, True):
        at_the_end = gates.check_at_most("drop", (last, last, last), 1.0, "points", strict)
        assert (at_the_end.passed, at_the_end.verdict) == (True, "passed")
        begins_there = gates.check_at_most("drop", (beyond, last, beyond), 1.0, "points", strict)
        assert (begins_there.passed, begins_there.verdict) == (False, "inconclusive")
        past_it = gates.check_at_most("drop", (beyond, beyond, beyond), 1.0, "points", strict)
        assert (past_it.passed, past_it.verdict) == (False, "failed")


def output(snr: float | None, low: float | None = None, high: float | None = None) -> OutputReport:
    return OutputReport("y", snr, 1.0, 0.0, None, low, high)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([output(30.0, 25.0, 35.0), output(31.0, 20.0, 33.0)], (30.0, 20.0, 33.0)),
        ([output(30.0, 25.0, 35.0), output(31.0)], (30.0, None, None)),
        ([output(30.0), output(31.0, 25.0, 35.0)], (30.0, None, None)),
        ([output(30.0, 25.0, None)], (30.0, None, None)),
        ([output(30.0, None, 35.0)], (30.0, None, None)),
        ([output(None), output(30.0, 25.0, 35.0)], (30.0, 25.0, 35.0)),
    ],
)
def test_the_snr_s_interval_is_known_where_that_of_every_output_is(
    outputs: list[OutputReport], expected: tuple[float, float | None, float | None]
) -> None:
    (gate,) = gates.evaluate_gates(Settings(min_snr=1.0), AccuracyReport(9, {}, {}, tuple(outputs)))
    assert (gate.value, gate.low, gate.high) == expected


@pytest.mark.parametrize("strict", [False, True])
def test_the_number_of_sparse_layers_is_sure_and_has_its_unit(strict: bool) -> None:
    layers = [layer(0), layer(1, sparse=False), layer(2)]
    (gate,) = gates.evaluate_gates(Settings(min_sparse_layers=2, strict=strict), None, layers=layers)
    assert gate == Gate("min-sparse-layers", 2.0, 2.0, "layers", True, "passed", 2.0, 2.0)


@pytest.mark.parametrize("valid", [False, True])
def test_a_speed_up_gate_tells_the_worst_shapes_figure(valid: bool) -> None:
    engine = EngineReport("tensorrt", latency=(point(1.6, 1.7, 1.8, valid=valid), point(1.3, 1.4, 1.5)))
    (gate,) = gates.evaluate_gates(Settings(min_speedup=1.2), None, engine=engine)
    expected = Gate("min-speedup", 1.4, 1.2, "×", True, "passed", 1.3, 1.5)
    assert gate == (expected if valid else replace(expected, passed=False, verdict="inconclusive"))
