"""The sentences that every page begins with: accuracy, prunable layers, what to expect on a GPU, what to do next."""

import math
from dataclasses import replace
from typing import Any

import pytest

from prox24_export.report import content, outcome
from prox24_export.results.change import Change
from prox24_export.results.engine import Estimate, GpuBound
from prox24_export.results.report import AccuracyReport, DataFacts, Fault, Gate, OutputReport, Report
from tests.report.example import build, full, layer, nothing_eligible, with_budget

RANDOM = DataFacts("random", "random", 20, 6, 6, is_random=True)


def measured(name: str, dense: float, sparse: float, *interval: float, **better: Any) -> Report:
    changes = (Change(name, sparse - dense, interval[0], interval[1], 500),) if interval else ()
    return build(accuracy=AccuracyReport(500, {name: dense}, {name: sparse}, (), changes, **better), gates=())


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (measured("top1", 97.6, 97.4, -0.712, 0.344), "kept: top-1 97.6 % dense, 97.4 % sparse (−0.2 points, "),
        (measured("top1", 97.6, 97.6), "kept: top-1 97.6 % dense, 97.6 % sparse (±0 points) on 500 samples"),
        (measured("top1", 97.6, 98.0, 0.1, 0.7), "kept: "),
        (measured("top1", 97.6, 96.7, -1.3, -0.5), "nearly kept: "),
        (measured("top1", 97.6, 96.7), "nearly kept: "),
        (measured("top1", 97.6, 97.6, -38.0, 38.0), "kept, as far as so few samples tell: "),
        (measured("top1", 97.6, 97.6, -5.1, 1.0), "kept, as far as so few samples tell: "),
        (measured("top1", 97.6, 97.6, -4.9, 9.0), "kept: "),
        (measured("top1", 97.6, 96.5, -2.6, 0.4), "lost: "),  # too few samples are no proof that it was kept
        (measured("perplexity", 4.8, 4.89, better={"perplexity": "lower"}), "nearly kept: perplexity 4.8 dense, 4.89 "),
        (measured("perplexity", 4.8, 5.8, better={"perplexity": "lower"}), "lost: "),
        (measured("perplexity", 4.8, 3.8, better={"perplexity": "lower"}), "kept: "),
        (measured("mine", 4.8, 3.8), "lost: "),  # nobody said which direction is better
        (measured("mine", 4.8, math.nan), "lost: "),
    ],
)
def test_accuracy_is_judged_by_its_loss_and_its_interval(report: Report, said: str) -> None:
    assert outcome.describe_accuracy(report).startswith(f"Accuracy {said}")


def test_an_interval_has_the_digits_that_it_deserves() -> None:
    said = outcome.describe_accuracy(measured("top1", 99.0, 99.0, -0.598, 0.598))
    assert said.endswith("(±0 points, 95 % interval −0.6 to +0.6) on 500 samples")


def test_a_limit_that_is_not_kept_decides_and_its_metric_is_told() -> None:
    drop = Gate("max-accuracy-drop", 0.2, 0.1, "points", passed=False)
    said = outcome.describe_accuracy(replace(measured("top1", 97.6, 97.4), gates=(drop,)))
    assert said.startswith("Accuracy not kept (--max-accuracy-drop): top-1 97.6 % dense")
    assert outcome.describe_accuracy(full()).startswith("Accuracy not kept (--max-metric-change): word_errors 4.125 ")


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (None, "Accuracy was not measured"),
        (AccuracyReport(9, {}, {}, ()), "Accuracy was not measured"),
        (
            AccuracyReport(9, {}, {}, (OutputReport("y", 30.0, 1, 0.1, 0.988), OutputReport("z", 12.3, 1, 0.1, None))),
            (
                "Accuracy was not measured, since there are no labels: 98.8 % of the positions of y have the same "
                "arg-max, and the worst output, z, is at 12.3 dB SNR"
            ),
        ),
        (
            AccuracyReport(9, {}, {}, (OutputReport("y", None, 1, 0, None),)),
            "Accuracy was not measured, since there are no labels: the outputs are equal",
        ),
        (
            AccuracyReport(9, {"top1": 9.0}, {"top1": 9.0}, (OutputReport("y", None, None, None, None, not_finite=3),)),
            "Accuracy lost: output y has NaN or Inf in 3 entries",
        ),
    ],
)
def test_without_a_metric_the_outputs_tell(accuracy: AccuracyReport | None, said: str) -> None:
    assert outcome.describe_accuracy(build(accuracy=accuracy)) == said


def test_random_inputs_tell_nothing_of_accuracy() -> None:
    report = build(data=RANDOM)
    assert outcome.describe_accuracy(report) == "Accuracy unknown: no samples were given"
    assert outcome.describe_next_step(report).startswith("Next: give samples with --calibration")


def test_layers_that_nobody_could_prune_do_not_count() -> None:
    assert outcome.count_prunable(build()) == (74, 80)  # six were excluded, eighteen cannot be pruned
    assert outcome.count_prunable(with_budget(build())) == (74, 81)
    assert outcome.describe_layers(build(layers=(layer(0),))) == "1 of 1 prunable layers is 2:4 sparse"


def bounded(*bounds: GpuBound) -> Report:
    return build(estimate=Estimate(1e9, 0.7, 1.5, (), gpus=bounds))


def test_what_to_expect_names_gpus_or_says_that_nothing_is_to_be_expected() -> None:
    bounds = (GpuBound("a100", "NVIDIA A100", 1.72, 1.55, 9), GpuBound("t4", "NVIDIA T4", 1.0, 1.0, 0))
    said = outcome.describe_expectation(bounded(*bounds))
    assert said == "Expect on a GPU, for the linear layers alone, at most A100 1.72 × and 1.55 × (fp16, int8)"
    assert outcome.describe_expectation(bounded(bounds[1])).startswith("Expect no gain on a GPU: no pruned layer has")
    assert not outcome.describe_expectation(build(estimate=None))
    assert not outcome.describe_expectation(bounded())
    assert outcome.describe_expectation(full()).startswith("Speed-up 1.23 × (1.19 to 1.27) with TensorRT")


def test_the_next_step_follows_from_what_happened() -> None:
    assert outcome.describe_next_step(nothing_eligible()) == ""
    assert outcome.describe_next_step(full()) == "Next: see what failed below, and what may help"
    assert outcome.describe_next_step(build(faults=(Fault("accuracy", "no"),))).startswith("Next: see what failed")
    assert outcome.describe_next_step(build(gates=())) == ""
    deployed = build(gates=(), files=(outcome.DEPLOY,))
    assert outcome.describe_next_step(deployed).endswith("on your GPU, with the lines in kwt1-2to4/DEPLOY.md")
    assert content.verdict(deployed).endswith(
        "prunable layers are 2:4 sparse. " + outcome.describe_next_step(deployed) + "."
    )
