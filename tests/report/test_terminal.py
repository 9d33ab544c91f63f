"""What the command prints: the verdict after a run, and the table of `inspect`."""

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from prox24_export.report import terminal
from prox24_export.report.model import Gate, LayerReport, OutputReport, RefinementReport
from tests.report.example import build, layer, nothing_eligible

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
    assert lines[0] == "74 of 98 linear layers are 2:4 sparse (9,568,256 weights, verified)"
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
