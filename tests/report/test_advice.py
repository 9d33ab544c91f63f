"""Where a model loses much the run says so first, and proposes what it has not done."""

from dataclasses import replace
from typing import Any

import pytest

from prox24_export.report.advice import advise
from prox24_export.report.terminal import render
from prox24_export.results.report import AccuracyReport, DataFacts, Gate, OutputReport, RefinementReport, Report
from tests.report.example import build, with_budget

FEW = DataFacts("c.npz", "e.npz", fit=205, choice=51, report=744, is_random=False)


def lossy(dense: float = 56.5, sparse: float = 44.6, **changes: Any) -> Report:
    accuracy = AccuracyReport(744, {"top1": dense}, {"top1": sparse}, (OutputReport("y", 9.1, 0.9, 1.0, 0.7),))
    return build(12, accuracy=accuracy, gates=(), data=FEW, seconds={"total": 1.0}, **changes)


def test_the_first_lines_say_what_is_lost_and_what_may_help() -> None:
    lost, first = render(lossy()).splitlines()[:2]
    assert lost.startswith("Accuracy lost: top-1 56.5 % dense, 44.6 % sparse (−11.9 points)")
    assert first.startswith(
        "The sparse model loses 11.9 points of top-1. What may help: more calibration samples than 256;"
    )
    assert "--effort thorough" in first
    assert "--budget" in first
    assert "--refine weights" not in first


def test_what_was_done_is_not_proposed() -> None:
    done = lossy(settings={"effort": "thorough"}, refinement=None)
    said = advise(replace(done, data=replace(FEW, fit=9000, is_random=False)))
    assert said is not None
    assert "samples" not in said
    assert "thorough" not in said
    assert "--refine weights" in said
    random = advise(replace(done, data=replace(FEW, is_random=True)))
    assert random is not None
    assert "real samples instead of random ones" in random


@pytest.mark.parametrize(
    ("reason", "proposed"),
    [
        ("6 samples held back tell little, 8 would do (--refine weights)", True),
        ("ArrayFeatureExtractor has no gradient", False),
    ],
)
def test_a_refinement_that_cannot_be_done_is_not_proposed(reason: str, proposed: bool) -> None:
    said = advise(lossy(refinement=RefinementReport(kept=False, reason=reason)))
    assert said is not None
    assert ("--refine weights" in said) is proposed


def test_where_everything_was_done_the_loss_is_said_all_the_same() -> None:
    report = with_budget(lossy(settings={"effort": "thorough"}))
    enough = replace(report, data=replace(FEW, fit=9000))
    assert advise(enough) == "The sparse model loses 11.9 points of top-1."


@pytest.mark.parametrize("sparse", [53.6, 56.5, 60.0])
def test_a_small_loss_is_not_mentioned(sparse: float) -> None:
    assert advise(lossy(sparse=sparse)) is None
    assert "of 9 prunable layers" in render(lossy(sparse=sparse)).splitlines()[0]


def test_without_labels_the_arg_max_tells() -> None:
    outputs = (
        OutputReport("a", 20.0, 0.9, 1.0, 0.97),
        OutputReport("b", 9.0, 0.9, 1.0, 0.7),
        OutputReport("c", 9.0, 0.9, 1.0, None),
    )
    unlabelled = lossy()
    said = advise(replace(unlabelled, accuracy=AccuracyReport(744, {}, {}, outputs)))
    assert said is not None
    assert said.startswith("The sparse model has another arg-max at 30.0 % of the positions of output b.")
    assert advise(replace(unlabelled, accuracy=AccuracyReport(744, {}, {}, outputs[:1]))) is None
    assert advise(replace(unlabelled, accuracy=AccuracyReport(744, {}, {}, outputs[2:]))) is None


def test_a_gate_of_accuracy_that_fails_is_named_and_others_are_not() -> None:
    missed = Gate("min-snr", 9.1, 15, "dB", passed=False)
    said = advise(replace(lossy(sparse=56.0), gates=(missed,)))
    assert said is not None
    assert said.startswith("The sparse model does not keep --min-snr.")
    slow = Gate("min-speedup", 1.0, 1.5, "times", passed=False)
    assert advise(replace(lossy(sparse=56.0), gates=(slow,))) is None


def test_where_nothing_is_sparse_there_is_nothing_to_say() -> None:
    assert advise(replace(lossy(), layers=())) is None
    assert advise(replace(lossy(), accuracy=None)) is None


def test_after_a_baseline_the_default_method_comes_first() -> None:
    said = advise(lossy(settings={"method": "wanda", "effort": "default"}, refinement=None))
    assert said is not None
    assert "help: --method prox, the default: wanda is a baseline to compare with; more calibration samples" in said
    assert "thorough" not in said
    assert "--refine" not in said
    assert "--method" not in str(advise(lossy(settings={"method": "prox-gradient"}, refinement=None)))
