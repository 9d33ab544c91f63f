"""Verdicts at the limit, on either side of it, and without a measurement."""

import math

import pytest

from prox24_export.results.report import AccuracyReport, OutputReport
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


def test_without_limits_there_are_no_gates() -> None:
    assert gates.evaluate_gates(Settings(), measured(90, 0, -50.0)) == ()


def test_a_byte_copy_keeps_every_limit_although_nothing_was_measured() -> None:
    verdicts = gates.evaluate_gates(Settings(max_accuracy_drop=0.0, min_snr=60.0), None, is_copy=True)
    assert [gate.passed for gate in verdicts] == [True, True]
    assert [gate.passed for gate in gates.evaluate_gates(Settings(max_accuracy_drop=0.0, min_snr=60.0), None)] == [
        False,
        False,
    ]
