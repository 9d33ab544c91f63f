"""`summary.md`: what a reader of a CI run must see, and what names must not be able to do."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from prox24_export.report import markdown
from prox24_export.report.content import figures, tables, verdict
from prox24_export.report.markdown import render
from prox24_export.report.tables import number
from prox24_export.results.change import Change
from prox24_export.results.report import (
    RANDOM_WARNING,
    AccuracyReport,
    DataFacts,
    Gate,
    LayerReport,
    OutputReport,
    RefinementReport,
    Report,
)
from tests.report.example import build, full, layer, nothing_eligible
from tests.report.markdown_examples import MOST_BYTES
from tests.report.reports import reports


def one_layer(name: str, **changes: object) -> Report:
    only: LayerReport = replace(layer(0), name=name, **changes)  # type: ignore[arg-type]
    return build(layers=(only,))


def test_the_verdict_comes_first() -> None:
    first = render(build()).splitlines()[0]
    assert first == (
        "**Accuracy nearly kept: top-1 97.6 % dense, 97.2 % sparse (−0.4 points) on 1,096 samples; "
        "74 of 80 prunable layers are 2:4 sparse.**"
    )


def test_tables_hold_gates_accuracy_layers_data_files_and_versions() -> None:
    text = render(build())
    assert "|max-accuracy-drop|0.4 points|at most 0.5 points|passed|" in text
    assert "|min-snr|17.05 dB|at least 15 dB|passed|" in text
    assert "|top-1|97.6 %|97.2 %|−0.4 points|" in text
    assert "|`logits`|21.3 dB|0.996412|1.82|98.81 %|" in text
    assert "|`embedding`|17.1 dB|0.990136|0.734||" in text
    assert "|`/encoder/layers.0/q_proj/MatMul`|MatMul|256 × 256|65,536|0.4 %|one weight, 2 uses|" in text
    assert "|excluded by the user|6|" in text
    assert "|`/encoder/layers.1/fc2/MatMul`|Gemm|the reduction dimension is not a multiple of 4 (K = 35)|" in text
    assert "|choice|877|blend, and whether refinement is kept|clips/train.npz|" in text
    for layerwise in (None, RefinementReport(kept=False, reason="why")):
        assert "|choice|877|blend, then masks and weights|clips/train.npz|" in render(build(refinement=layerwise))
    assert "Calibration took 18,240 node executions in 41 stages, 2.4 × one dense pass." in text
    assert f"|kwt1-2to4/model.onnx|13,421,773 bytes|{'b' * 64}|" in text
    assert "onnxruntime 1.23.0" in text
    assert "Warning:** 12 samples were left out" in text
    assert RANDOM_WARNING not in text


def test_layers_with_the_worst_error_come_first() -> None:
    rows = [line for line in render(build()).splitlines() if line.startswith("|`/encoder") and " %|" in line]
    errors = [float(row.split("|")[5].removesuffix(" %")) for row in rows]
    assert len(errors) == 74
    assert errors == sorted(errors, reverse=True)


def test_every_row_has_as_many_cells_as_its_header() -> None:
    widths: set[int] = set()
    for line in [*render(build()).splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1
            widths.clear()


def test_random_data_are_announced_before_any_figure() -> None:
    random = DataFacts("random", "random", fit=20, choice=6, report=6, is_random=True)
    text = render(build(data=random, warnings=(RANDOM_WARNING,)))
    assert text.count("inputs were random") == 1
    assert text.index("inputs were random") < text.index("## ")


def test_nothing_eligible_says_so_and_counts_reasons() -> None:
    text = render(nothing_eligible())
    assert text.startswith("**Nothing eligible: model.onnx is a byte copy of the input.**")
    assert "|grouped or depthwise convolution: TensorRT has no sparse kernel for it|2|" in text
    for absent in ("Sparse layers", "## Gates", "## Accuracy", "## Data", "Calibration took"):
        assert absent not in text


def test_a_copy_is_claimed_only_where_hashes_agree() -> None:
    assert "byte copy" not in verdict(build(layers=()))


def test_without_labels_the_verdict_names_the_worst_output() -> None:
    accuracy = AccuracyReport(9, {}, {}, (OutputReport("a", None, 1, 0, None), OutputReport("b", 30.06, 0.9, 1, None)))
    assert "no labels: the worst output, b, is at 30.1 dB SNR; " in verdict(build(accuracy=accuracy))
    assert tables(build(accuracy=accuracy))["outputs"].rows[1][:2] == ("a", "∞ (equal)")


WITHOUT_RATIO = (
    OutputReport("boxes", None, None, None, None, not_compared="its size depends on the data"),
    OutputReport("label", None, None, None, None, equal=0.4167),
    OutputReport("mask", None, None, None, None, equal=0.25),
    OutputReport("broken", -math.inf, 0.0, math.inf, None, not_finite=12),
    OutputReport("y", 30.06, 0.9, 1, None),
)


def test_outputs_without_a_ratio_say_what_is_known_and_the_furthest_comes_first() -> None:
    rows = tables(build(accuracy=AccuracyReport(9, {}, {}, WITHOUT_RATIO)))["outputs"].rows
    assert [row[:2] for row in rows] == [
        ("broken", "NaN or Inf in 12 entries"),
        ("y", "30.1 dB"),
        ("mask", "25 % of entries equal"),
        ("label", "41.67 % of entries equal"),
        ("boxes", "not compared: its size depends on the data"),
    ]
    assert rows[2][2:] == ("", "", "")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (WITHOUT_RATIO, "Accuracy lost: output broken has NaN or Inf in 12 entries;"),
        (
            WITHOUT_RATIO[:3],
            "Accuracy was not measured, since there are no labels: 25 % of the entries of mask are equal;",
        ),
        (WITHOUT_RATIO[:1], "Accuracy was not measured, since there are no labels;"),
    ],
)
def test_the_verdict_names_what_is_known_of_the_worst_output(outputs: tuple[OutputReport, ...], said: str) -> None:
    assert verdict(build(accuracy=AccuracyReport(9, {}, {}, outputs))).startswith(said)


def test_without_accuracy_the_verdict_says_so() -> None:
    text = render(build(accuracy=None))
    assert text.splitlines()[0].startswith("**Accuracy was not measured; ")
    assert "## Accuracy" not in text
    assert "## Outputs" not in text


def test_a_failed_gate_is_in_the_verdict() -> None:
    gates = (
        Gate("max-accuracy-drop", None, 0.5, "points", passed=False),
        Gate("min-snr", 14.96, 15, "dB", passed=False),
    )
    text = render(build(gates=gates))
    assert "; gate failed: max-accuracy-drop, min-snr." in text.splitlines()[0]
    assert "|max-accuracy-drop|not measured|at most 0.5 points|failed|" in text
    assert "|min-snr|14.96 dB|at least 15 dB|failed|" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a|b", "`a\\|b`"),
        ("a\nb", "`a b`"),
        ("a`b", "`` a`b ``"),
        ("<script>", "`<script>`"),
    ],
)
def test_a_name_stays_inside_its_code_span(name: str, expected: str) -> None:
    assert f"|{expected}|MatMul|" in render(one_layer(name))


def test_words_in_cells_are_not_markup() -> None:
    text = render(one_layer("n", notes=("<b>|*x*\n_y_ C_in\\",)))
    assert "|\\<b\\>\\|\\*x\\* \\_y\\_ C_in&#92;|" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (12.345, "12.3"),
        (999.7, "1,000"),
        (1234567.0, "1,234,567"),
        (-0.004, "−0.004"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_are_written_for_people(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(("sparse", "expected"), [(97.6, "±0 points"), (97.7, "+0.1 points"), (95, "−2.6 points")])
def test_a_change_has_its_sign(sparse: float, expected: str) -> None:
    accuracy = AccuracyReport(10, {"top1": 97.6}, {"top1": sparse}, ())
    assert tables(build(accuracy=accuracy))["metrics"].rows[0][3] == expected


def test_unknown_dimensions_are_left_empty() -> None:
    assert figures(layer(3)) == ("", "", "")


def test_the_refinement_has_its_table_where_there_was_one() -> None:
    text = markdown.render(build())
    assert "0.52 layer by layer, 0.31 refined, 877 samples" in text
    assert "model, 6 epochs, 41.5 s" in text
    assert "Refinement" not in markdown.render(build(refinement=None))


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Gate("min-snr", 17.0, 15.0, "dB", True, "passed", 16.0, 18.0), "17 dB (16 to 18)|at least 15 dB|passed"),
        (Gate("min-snr", 17.0, 15.0, "dB", True, "inconclusive", 14.0, 18.0), "inconclusive, passed"),
        (Gate("min-snr", 17.0, 15.0, "dB", False, "inconclusive", 14.0, 18.0), "inconclusive, failed"),
        (Gate("max-metric-change", 0.125, 0.1, "", False, "failed"), "|0.125|at most 0.1|failed|"),
    ],
)
def test_a_verdict_says_whether_it_is_more_than_chance(gate: Gate, said: str) -> None:
    assert said in render(build(gates=(gate,)))


def test_an_earlier_number_of_sparse_layers_is_a_least() -> None:
    gate = Gate("baseline sparse layers", 8.0, 9.0, "layers", passed=False)
    assert "|baseline sparse layers|8 layers|at least 9 layers|failed|" in render(build(gates=(gate,)))


def test_metrics_have_their_units() -> None:
    values = {"top5 head": 90.0, "psnr": 30.0, "topic": 1.5}
    rows = tables(build(accuracy=AccuracyReport(10, values, dict.fromkeys(values, 1.0), ())))["metrics"].rows
    assert rows == [
        ("top-5 head", "90 %", "1 %", "−89 points"),
        ("psnr", "30 dB", "1 dB", "−29 dB"),
        ("topic", "1.5", "1", "−0.5"),
    ]


def test_a_doubt_is_in_the_first_line_apart_from_failures() -> None:
    doubt = Gate("min-snr", 17.0, 15.0, "dB", passed=True, verdict="inconclusive")
    first = render(build(gates=(doubt,))).splitlines()[0]
    assert first.endswith("; gate inconclusive: min-snr.**")
    assert "failed" not in first


def test_a_change_has_its_interval_where_one_is_known() -> None:
    accuracy = AccuracyReport(10, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 1.5}, (), (Change("a", 1.0, -0.5, 2.5, 10),))
    rows = tables(build(accuracy=accuracy))["metrics"].rows
    assert [row[3] for row in rows] == ["+1, 95 % interval −0.5 to +2.5", "+0.5"]


def test_the_snr_has_its_interval_and_images_have_their_psnr() -> None:
    text = render(full())
    assert "|Output|SNR|Cosine|Max. abs. error|Arg-max agreement|PSNR|" in text
    assert "|`logits`|21.3 dB (20.9 to 21.8)|0.996412|1.82|98.81 %||" in text
    assert "PSNR" not in render(build())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_any_report_is_rendered_and_its_tables_have_even_rows(report: Report) -> None:
    text = render(report)
    assert len(text.encode()) < MOST_BYTES
    for table in tables(report).values():
        assert {len(row) for row in table.rows} <= {len(table.header)}, table.title
