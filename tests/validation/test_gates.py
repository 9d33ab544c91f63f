"""Verdicts at the limit, on either side of it, and without a measurement."""

import math
from dataclasses import replace

import pytest

from prox24_export.results.report import AccuracyReport, Better, Gate, OutputReport
from prox24_export.settings import Settings
from prox24_export.validation import gates


def measured(dense: float, sparse: float, *ratios: float | None) -> AccuracyReport:
    outputs = tuple(OutputReport(f"y{index}", ratio, 1.0, 0.0, None) for index, ratio in enumerate(ratios))
    return AccuracyReport(10, {"top1": dense}, {"top1": sparse}, outputs)


@pytest.mark.parametrize(
    ("dense", "sparse", "limit", "passed"),
    [
        (97.6, 97.2, 0.4, True),
        (97.6, 97.2, 0.39, False),
        (97.5, 97.1, 0.4, True),  # in floating point the drop is a little above 0.4
        (90.0, 90.0, 0.0, True),
        (90.0, 89.99, 0.0, False),
        (90.0, 95.0, 0.0, True),
        (100 * 7 / 9, 100 * 6 / 9, 100 / 9, True),
    ],
)
def test_a_drop_up_to_the_limit_passes(dense: float, sparse: float, limit: float, passed: bool) -> None:
    (gate,) = gates.evaluate_gates(Settings(max_accuracy_drop=limit), measured(dense, sparse))
    assert (gate.name, gate.limit, gate.unit, gate.passed) == ("max-accuracy-drop", limit, "points", passed)
    assert gate.value == pytest.approx(dense - sparse)


@pytest.mark.parametrize(
    ("ratios", "worst", "passed"),
    [
        ((20.0,), 20.0, True),
        ((19.999,), 19.999, False),
        ((30.0, 20.0, None), 20.0, True),
        ((30.0, 10.0), 10.0, False),
        ((None, None), math.inf, True),
        ((None, -math.inf), -math.inf, False),
    ],
)
def test_the_worst_output_decides_and_equal_outputs_pass(
    ratios: tuple[float | None, ...], worst: float, passed: bool
) -> None:
    (gate,) = gates.evaluate_gates(Settings(min_snr=20.0), measured(0, 0, *ratios))
    assert (gate.name, gate.value, gate.limit, gate.unit, gate.passed) == ("min-snr", worst, 20.0, "dB", passed)


@pytest.mark.parametrize("accuracy", [None, AccuracyReport(3, {}, {}, ())])
def test_what_could_not_be_measured_does_not_pass(accuracy: AccuracyReport | None) -> None:
    both = gates.evaluate_gates(Settings(max_accuracy_drop=100.0, min_snr=-100.0), accuracy)
    assert [(gate.name, gate.value, gate.passed) for gate in both] == [
        ("max-accuracy-drop", None, False),
        ("min-snr", None, False),
    ]


NOT_COMPARED = OutputReport("boxes", None, None, None, None, not_compared="its size depends on the data")
LABELS = OutputReport("label", None, None, None, None, equal=0.5)


def test_outputs_without_a_ratio_neither_keep_nor_break_the_limit_of_one() -> None:
    report = replace(measured(0, 0, 30.0), outputs=(OutputReport("y", 30.0, 1.0, 0.0, None), NOT_COMPARED, LABELS))
    (gate,) = gates.evaluate_gates(Settings(min_snr=20.0), report)
    assert (gate.value, gate.passed) == (30.0, True)
    (gate,) = gates.evaluate_gates(Settings(min_snr=20.0), replace(report, outputs=(NOT_COMPARED, LABELS)))
    assert (gate.value, gate.passed, gate.verdict) == (None, False, "failed")


def test_outputs_that_are_not_finite_fail_although_nobody_set_a_limit() -> None:
    broken = OutputReport("y", -math.inf, 0.0, math.inf, None, not_finite=3)
    report = replace(measured(90, 90), outputs=(broken, replace(NOT_COMPARED, not_finite=2)))
    (gate,) = gates.evaluate_gates(Settings(), report)
    assert (gate.name, gate.value, gate.limit, gate.unit) == ("finite-outputs", 5.0, 0.0, "entries")
    assert (gate.passed, gate.verdict) == (False, "failed")
    assert gates.evaluate_gates(Settings(), report, is_copy=True) == ()


@pytest.mark.parametrize("better", ["higher", "lower", None])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("strict", [False, True])
def test_a_metric_of_the_sparse_model_that_is_not_finite_keeps_no_limit(
    better: Better | None, value: float, strict: bool
) -> None:
    way = {} if better is None else {"mine": better}
    report = AccuracyReport(9, {"mine": 1.0}, {"mine": value}, (), better=way)
    (gate,) = gates.evaluate_gates(Settings(max_metric_change=1e30, strict=strict), report)
    assert (gate.passed, gate.verdict) == (False, "failed")


def test_without_limits_there_are_no_gates() -> None:
    assert gates.evaluate_gates(Settings(), measured(90, 0, -50.0)) == ()


def test_a_byte_copy_keeps_every_limit_although_nothing_was_measured() -> None:
    verdicts = gates.evaluate_gates(Settings(max_accuracy_drop=0.0, min_snr=60.0), None, is_copy=True)
    assert [gate.passed for gate in verdicts] == [True, True]
    assert [gate.passed for gate in gates.evaluate_gates(Settings(max_accuracy_drop=0.0, min_snr=60.0), None)] == [
        False,
        False,
    ]


LOSS = AccuracyReport(
    10, {"top1": 90.0, "psnr y": 30.0, "mine": 2.0}, {"top1": 87.0, "psnr y": 26.0, "mine": 7.0}, (), better={}
)


@pytest.mark.parametrize(("strict", "kept"), [(False, "passed"), (True, "inconclusive")])
def test_a_gate_tells_name_figure_limit_unit_and_verdict(strict: bool, kept: str) -> None:
    loose = Settings(max_accuracy_drop=3.0, max_metric_change=5.0, strict=strict)
    assert gates.evaluate_gates(loose, LOSS) == (
        Gate("max-accuracy-drop", 3.0, 3.0, "points", passed=not strict, verdict=kept),  # type: ignore[arg-type]
        Gate("max-metric-change psnr y", 4.0, 5.0, "dB", passed=not strict, verdict=kept),  # type: ignore[arg-type]
        Gate("max-metric-change mine", 5.0, 5.0, "", passed=not strict, verdict=kept),  # type: ignore[arg-type]
    )
    tight = Settings(max_accuracy_drop=2.0, max_metric_change=3.0, strict=strict)
    assert gates.evaluate_gates(tight, LOSS) == (
        Gate("max-accuracy-drop", 3.0, 2.0, "points", passed=False, verdict="failed"),
        Gate("max-metric-change psnr y", 4.0, 3.0, "dB", passed=False, verdict="failed"),
        Gate("max-metric-change mine", 5.0, 3.0, "", passed=False, verdict="failed"),
    )


@pytest.mark.parametrize("strict", [False, True])
def test_what_could_not_be_measured_fails_with_its_name_limit_and_unit(strict: bool) -> None:
    every = Settings(max_accuracy_drop=1.0, max_metric_change=2.0, min_snr=3.0, min_speedup=4.0, strict=strict)
    assert gates.evaluate_gates(every, None) == (
        Gate("max-accuracy-drop", None, 1.0, "points", passed=False, verdict="failed"),
        Gate("max-metric-change", None, 2.0, "", passed=False, verdict="failed"),
        Gate("min-snr", None, 3.0, "dB", passed=False, verdict="failed"),
        Gate("min-speedup", None, 4.0, "×", passed=False, verdict="failed"),
    )


@pytest.mark.parametrize("strict", [False, True])
def test_a_byte_copy_is_compared_with_the_limits_as_no_change_and_no_noise(strict: bool) -> None:
    every = Settings(max_accuracy_drop=0.0, max_metric_change=0.0, min_snr=60.0, strict=strict)
    nothing, equal = (0.0, 0.0), (math.inf, math.inf)
    assert gates.evaluate_gates(every, LOSS, is_copy=True) == (
        Gate("max-accuracy-drop", 0.0, 0.0, "points", True, "passed", *nothing),
        Gate("max-metric-change psnr y", 0.0, 0.0, "dB", True, "passed", *nothing),
        Gate("max-metric-change mine", 0.0, 0.0, "", True, "passed", *nothing),
        Gate("min-snr", math.inf, 60.0, "dB", True, "passed", *equal),
    )
    unnamed = gates.evaluate_gates(Settings(max_metric_change=0.0, strict=strict), None, is_copy=True)
    assert unnamed == (Gate("max-metric-change", 0.0, 0.0, "", True, "passed", *nothing),)


@pytest.mark.parametrize("missing", ["dense", "sparse"])
def test_a_metric_that_only_one_model_has_is_not_measured(missing: str) -> None:
    sides = {"dense": {"top1": 90.0}, "sparse": {"top1": 90.0}} | {missing: {}}
    assert gates.measure_worsening(AccuracyReport(10, sides["dense"], sides["sparse"], ()), "top1", "higher") is None


@pytest.mark.parametrize(("drop", "passed"), [(1000.0000009, True), (1000.0000011, False)])
def test_the_rounding_allowed_grows_with_the_limit(drop: float, passed: bool) -> None:
    gate = gates.check_at_most("drop", (drop, None, None), 1000.0, "points", strict=False)
    assert gate.passed is passed


@pytest.mark.parametrize(("drop", "passed"), [(0.9e-9, True), (1.1e-9, False)])
@pytest.mark.parametrize("limit", [0.0, 0.5, -0.5])
def test_the_rounding_allowed_at_a_small_limit_is_that_of_1(limit: float, drop: float, passed: bool) -> None:
    gate = gates.check_at_most("drop", (limit + drop, None, None), limit, "points", strict=False)
    assert gate.passed is passed


def test_what_the_max_metric_change_looks_at_has_the_direction_that_is_known() -> None:
    several = AccuracyReport(9, {"top1": 9, "top5": 9, "a": 1, "b": 2}, {}, (), better={"a": "lower"})
    assert gates.find_gated_metrics(several) == {"a": "lower", "b": ""}
    assert gates.find_gated_metrics(None) == {}
