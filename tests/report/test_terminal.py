"""What the command prints: the verdict after a run, and the table of `inspect`."""

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from prox24_export.report import terminal, terminal_budget
from prox24_export.results.budget import CONFIRMING, BudgetReport
from prox24_export.results.report import AccuracyReport, Gate, LayerReport, OutputReport, RefinementReport
from tests.report.example import build, full, layer, nothing_eligible, only_dense

SECONDS = {"total": 12.34}


def longest(index: int) -> LayerReport:
    """The widest figures that a real model could have."""
    return replace(
        layer(index),
        name="/model/encoder/" + "block" * 40,
        op="com.microsoft::FusedMatMulActivation",
        k=1_234_567,
        n=123_456,
        parameters=123_456_789_012,
        share=1.0,
        notes=("K % 16 ≠ 0: an fp16 sparse kernel is unlikely", "one weight, 12 uses"),
    )


def test_a_run_is_told_from_its_report() -> None:
    text = terminal.render(build(seconds=SECONDS, warnings=("look here",)))
    lines = text.splitlines()
    assert lines[0] == (
        "Accuracy nearly kept: top-1 97.6 % dense, 97.2 % sparse (−0.4 points) on 1,096 samples; "
        "74 of 80 prunable layers are 2:4 sparse (9,568,256 weights, verified)."
    )
    assert "  dense: 6 × the weight is not a constant of the model" in lines
    assert "  dense: 6 × the reduction dimension is not a multiple of 4" in lines  # the figure in brackets is left out
    assert "top1: 97.60 % dense, 97.20 % sparse on 1096 samples" in lines
    assert "output logits: 21.3 dB SNR, cosine 0.99641, 98.81 % same arg-max" in lines
    assert "output embedding: 17.1 dB SNR, cosine 0.99014" in lines
    assert "gate max-accuracy-drop: passed (0.40 points, limit 0.5 points)" in lines
    assert "warning: look here" in lines
    assert lines[-1] == "kwt1-2to4/model.onnx  (12.3 s)"
    assert text.endswith("\n")


def test_nothing_eligible_says_so_with_the_reasons() -> None:
    text = terminal.render(replace(nothing_eligible(), seconds=SECONDS))
    assert text.startswith("nothing eligible: depthwise-2to4/model.onnx is a copy of depthwise-2to4/model.onnx\n")
    assert "  dense: 2 × grouped or depthwise convolution: TensorRT has no sparse kernel for it\n" in text


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Gate("min-snr", 9.5, 10.0, "dB", passed=False), "gate min-snr: FAILED (9.50 dB, limit 10 dB)"),
        (Gate("min-snr", None, 10.0, "dB", passed=False), "gate min-snr: FAILED (not measured, limit 10 dB)"),
        (Gate("min-snr", math.inf, 10.0, "dB", passed=True), "gate min-snr: passed (inf dB, limit 10 dB)"),
    ],
)
def test_a_gate_is_one_line_with_its_verdict(gate: Gate, said: str) -> None:
    assert said in terminal.render(build(seconds=SECONDS, gates=(gate,))).splitlines()


def test_an_output_equal_to_the_dense_one_is_called_that() -> None:
    report = build(seconds=SECONDS)
    assert report.accuracy is not None
    same = replace(report.accuracy, dense={}, sparse={}, outputs=(OutputReport("y", None, 1.0, 0.0, None),))
    assert "output y: equal to dense, cosine 1.00000\n" in terminal.render(replace(report, accuracy=same))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (OutputReport("y", None, None, None, None, equal=0.4167), "output y: 41.67 % of the entries equal to dense"),
        (
            OutputReport(
                "y", None, None, None, None, not_compared="its size depends on the data (9 of 9 samples differ)"
            ),
            "output y: its size depends on the data (9 of 9 samples differ); not compared",
        ),
        (
            OutputReport("y", -math.inf, 0.0, math.inf, 0.5, not_finite=1234),
            "output y: NaN or Inf in 1,234 entries, and not in the dense model's",
        ),
    ],
)
def test_an_output_without_a_ratio_says_what_is_known_of_it(output: OutputReport, said: str) -> None:
    accuracy = AccuracyReport(9, {}, {}, (output,))
    lines = terminal.render(build(seconds=SECONDS, accuracy=accuracy)).splitlines()
    assert [line for line in lines if line.startswith("output ")] == [said]


def test_no_line_of_the_table_is_longer_than_100_columns_and_no_figure_is_cut() -> None:
    layers = [longest(0), layer(1), layer(3), replace(longest(3), name="層" * 60)]
    text = terminal.layers_table(layers)
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    for figure in ("1234567", "123456", "123,456,789,012", "100.0 %", "eligible", "dense"):
        assert figure in text
    first = text.splitlines()[1:4]
    assert "".join(line.split()[1] for line in first) == "com.microsoft::FusedMatMulActivation"


def test_the_table_has_a_row_for_every_layer_and_a_sum() -> None:
    layers = [replace(layer(index), name=f"fc{index}", share=0.25) for index in range(4)]
    lines = terminal.layers_table(layers).splitlines()
    assert lines[0].split() == ["name", "op", "K", "N", "parameters", "share", "state", "reason", "or", "notes"]
    assert lines[1].split()[:9] == ["fc0", "MatMul", "256", "256", "65,536", "25.0", "%", "eligible", "one"]
    assert lines[-1] == "3 of 4 eligible, 75.0 % of the parameters"


def test_names_are_shown_as_they_are() -> None:
    text = terminal.layers_table([replace(layer(1), name="a[bold]b:key:c[/x]")])
    assert "a[bold]b:key:c[/x]" in text
    assert "\x1b" not in text


def test_no_layers_make_an_empty_table() -> None:
    assert terminal.layers_table([]).splitlines()[-1] == "0 of 0 eligible, 0.0 % of the parameters"
    assert json.loads(terminal.layers_json([])) == []


def test_json_has_every_column_of_the_table_and_more_digits() -> None:
    rows = json.loads(terminal.layers_json([layer(0), layer(3)]))
    assert [list(row) for row in rows] == [list(terminal.COLUMNS)] * 2
    assert {"name", "op", "k", "n", "parameters", "share", "state", "reason", "notes"} <= set(rows[0])
    assert rows[0]["notes"] == ["one weight, 2 uses"]
    assert rows[1]["reason"].startswith("grouped or depthwise")
    assert rows[0]["share"] == pytest.approx(0.9 / 98)


@pytest.mark.parametrize(("kept", "said"), [(True, "refined: why"), (False, "not refined: why")])
def test_what_came_of_the_refinement_is_one_line(kept: bool, said: str) -> None:
    report = build(refinement=RefinementReport(kept, "why"), seconds={"total": 1.0})
    assert said in terminal.render(report).splitlines()


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("top1", "90.00 % dense, 80.00 % sparse"),
        ("top5 head", "90.00 % dense, 80.00 % sparse"),
        ("psnr", "90.00 dB dense, 80.00 dB sparse"),
        ("topic", "90.00 dense, 80.00 sparse"),
        ("top10_recall", "90.00 dense, 80.00 sparse"),
        ("perplexity", "90.00 dense, 80.00 sparse"),
    ],
)
def test_a_metric_has_its_own_unit(metric: str, said: str) -> None:
    accuracy = AccuracyReport(16, {metric: 90.0}, {metric: 80.0}, ())
    lines = terminal.render(build(seconds=SECONDS, accuracy=accuracy)).splitlines()
    assert f"{metric}: {said} on 16 samples" in lines


def wide(letters: str) -> BudgetReport:
    """A search whose names, titles and figures are as long as they may be."""
    found = full().budget
    assert found is not None
    names = [f"{letters * 60}/end{index}" for index in range(len(found.decisions))]
    units = tuple(
        replace(unit, name=name, layers=(name, f"{name}b"), parameters=10**10)
        for unit, name in zip(found.sensitivity.units, names, strict=True)
    )
    reason = f"not sparse again: {letters * 60} then loses 1 ± 0.1, limit 0.5; loss 1 pruned"
    step = replace(found.curve[-1], order=f"{names[0]} sparse again", layers=12_345, parameters=10**10)
    figures = replace(step, order=CONFIRMING, value=-1.234e-100, error=1.2e-100, limit=1.234e100, fits=False)
    before = [replace(point, parameters=10**10 + 1) for point in found.curve]
    return replace(
        found,
        samples=123_456_789,
        sensitivity=replace(found.sensitivity, units=units, samples=123_456_789),
        curve=(*before, step, figures),
        decisions=tuple(
            replace(decision, name=name, reason=reason) for decision, name in zip(found.decisions, names, strict=True)
        ),
        dense=tuple(f"{name}b" for name in names),
        parameters=10**10,
    )


@pytest.mark.parametrize("letters", ["/layer", "層", "\U0001f600", "a\nb\t", "e\u0301"])
def test_no_line_of_a_budget_is_longer_than_100_columns(letters: str) -> None:
    found = wide(letters)
    sensitivity = terminal_budget.sensitivity_table(found.sensitivity).splitlines()
    lines = [*terminal_budget.budget_table(found).splitlines(), *sensitivity]
    assert max(cell_len(line) for line in lines) <= 100
    assert len(sensitivity) == 2 + len(found.sensitivity.units)  # no name breaks its line
    assert {cell_len(line) for line in sensitivity[1:]} == {99}  # nor its column
    assert sum("sparse again (solved again)" in line for line in lines) >= 1  # the end of a title tells steps apart
    assert sum(line.endswith("/end0b") for line in lines) == 1


def test_a_budget_of_usual_names_is_not_cut() -> None:
    text = terminal.render(full())
    lines = text.splitlines()
    assert "budget: 1 layer (65,536 weights) left dense, the others solved again, by 219 samples" in lines
    assert "  dense: /encoder/layers.1/k_proj/MatMul" in lines
    assert "    needed for the limit" in lines
    assert sum(line.endswith(" keeps  the first of these (solved again)") for line in lines) == 1
    started = lines.index("budget: 1 layer (65,536 weights) left dense, the others solved again, by 219 samples")
    table = lines[started : lines.index("    needed for the limit") + 1]
    assert max(map(len, table)) <= 100
    assert sum("keeps " in line or "misses" in line for line in table) == 5  # one order, and what was chosen
    assert "  4 more variants measured: report.html has all" in table


def test_every_confirmation_is_shown() -> None:
    found = full().budget
    assert found is not None
    missed, held = (replace(found.curve[-1], order=CONFIRMING, layers=layers, fits=layers > 1) for layers in (1, 2))
    lines = terminal_budget.budget_table(replace(found, curve=(*found.curve, missed, held))).splitlines()
    ends = [line.split(maxsplit=5)[-1] for line in lines if "keeps " in line or "misses" in line]
    told = [f"keeps  {found.curve[-1].order}", f"misses {CONFIRMING}", f"keeps  {CONFIRMING}"]
    assert ends[-3:] == [f"{step} (solved again)" for step in told]


def test_layers_of_one_stage_share_their_reason() -> None:
    lines = terminal_budget.budget_table(wide("x")).splitlines()
    assert sum(line.startswith("    not sparse again: ") for line in lines) == len(wide("x").dense)


def test_only_dense_is_told_as_that() -> None:
    text = terminal.render(only_dense())
    assert text.startswith("0 of 12 linear layers are 2:4 sparse: only the dense model keeps the limit\n")
    assert "budget: only the dense model keeps the limit, by 219 samples\n" in text
    assert "  dense: 10 × left dense to keep the accuracy budget\n" in text
    assert "nothing eligible" not in text
    assert "verified" not in text


def test_a_budget_that_was_not_needed_says_so() -> None:
    found = full().budget
    assert found is not None
    kept = replace(found, curve=found.curve[:1], dense=(), parameters=0, solved_again=False, verdict="not needed")
    text = terminal_budget.budget_table(kept)
    assert text.startswith("budget: every layer may be sparse, by 219 samples that are in no figure of the report\n")
    assert "dense: " not in text


def test_a_gate_whose_limit_lies_within_the_interval_is_called_inconclusive() -> None:
    for passed, told in ((True, "inconclusive, passed"), (False, "inconclusive, FAILED")):
        gate = Gate("max-accuracy-drop", 0.4, 0.5, "points", passed, "inconclusive", -0.2, 1.0)
        assert f"gate max-accuracy-drop: {told} (0.40 points" in terminal.render(build(seconds=SECONDS, gates=(gate,)))
