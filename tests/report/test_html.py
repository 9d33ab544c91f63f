"""`report.html`: complete, self-contained, escaped, and small; what was not measured is said, never shown."""

import base64
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from prox24_export.report import html_charts
from prox24_export.report.html import format_value, keep_dashes, keep_together, render
from prox24_export.report.html_answers import engine_state, gates, overall_verdict, speed, steps
from prox24_export.report.html_mask import read_masks
from prox24_export.report.html_tables import details
from prox24_export.results.engine import EngineReport, LayerDiagnosis
from prox24_export.results.report import AccuracyReport, DataFacts, Gate, OutputReport, RefinementReport, Report
from tests.report.example import layer, nothing_eligible, with_budget
from tests.report.html_example import build, engine, masks, point
from tests.report.page import HOSTILE, Page


def test_the_first_screen_answers() -> None:
    text = render(build())
    first = Page(text).text.partition("Sparse against dense, in detail")[0]
    for words in (
        "74 of 80 prunable layers are 2:4 sparse",
        "98 found 74 pruned to 2:4 50 eligible 25 sparse tactic chosen",
        "It is not known whether 12 of 74 pruned layers got a sparse tactic.",
        "top-1 97.6 % 97.2 % −0.4 points 95 % interval −0.93 to +0.12",
        "my_score 3.25 3.2 −0.05",
        "Worst output SNR: 17.1 dB (embedding)",
        "batch 1 1.01 × (0.98 to 1.05) no measurable difference",
        "batch 32 1.21 × (1.18 to 1.25) faster",
        "batch 64 1.27 × (1.24 to 1.31) not to be trusted",
        "Engine: TensorRT 10.16.1.11 fp16 on NVIDIA A100-SXM4-80GB.",
        "Estimate, not measured: at most 1.64 ×; 78 %",
        "max-accuracy-drop at most 0.5 points 0.4 points (−0.12 to 0.93) inconclusive, passed",
        "min-snr at least 15 dB 17.05 dB passed",
        "Warning. 12 samples were left out",
    ):
        assert words in first, words


def test_figures_reasons_and_facts_appear() -> None:
    text = Page(render(build())).text
    for words in (
        "98.81 %",
        "the largest error is 17.8 %, at /encoder/layers.6/fc2/MatMul.",
        "6 × excluded by the user",
        "the reduction dimension is not a multiple of 4 (K = 35)",
        "one weight, 2 uses",
        "blend 1, damping 0.003, iterations 140, seconds 0.42: every group settled on its mask",
        "the builder timed a dense tactic as faster; try a larger batch",
        "the builder log lists it as chosen; the inspector shows a dense tactic",
        "the builder log counts 26 layers",
        "eligible, not chosen",
        "the GPU’s clocks changed during the runs",
        "3.2 GFLOP in one call, 78 % of them in pruned layers",
        "products of two activations (24) are no linear layers and are left out",
        "/norm/ReduceMean values above 65,504",
        "engines/sparse.plan",
        "18,240 node executions in 41 stages, 2.4 × one dense pass",
        "kept: the held-back samples' objective went from 0.52 to 0.31",
        "b" * 64,
        "*/head/*",
        "1.23.0",
        "Linux x86_64",
    ):
        assert words in text, words


def test_every_layer_has_a_row_and_every_sparse_one_a_bar() -> None:
    text = render(build())
    drawn = text[text.index('<section id="errors"') : text.index('<section id="layer-list"')]
    assert drawn.count("<rect") == 74 + 2 + 12  # two in the legend, and the twelve largest with their names
    table = text[text.index('<table id="layers">') :].partition("</table>")[0]
    assert table.count('<th scope="row">') == 98
    assert table.count('data-state="sparse missed"') == 74 - 25


def test_every_id_is_used_once_and_every_label_has_its_element() -> None:
    text = render(with_budget(build()), masks(build()))
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for name in re.findall(r'(?:aria-labelledby|aria-describedby|for)="([^"]+)"', text):
        assert set(name.split()) <= set(page.ids), name
    assert {address.removeprefix("#") for address in page.loads if address.startswith("#")} <= set(page.ids)


def test_nothing_is_loaded() -> None:
    text = render(with_budget(build(300)), masks(build(300)))
    page = Page(text)
    assert [address for address in page.loads if not address.startswith("#")] == ["data:,"]
    assert re.search(r"https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest", text) is None


def test_the_policy_allows_this_script_and_this_style_and_no_other() -> None:
    text = render(build())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = dict(part.split(" ", 1) for part in policy[1].replace("&#39;", "'").split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not {name for name in Page(text).names if name == "style" or name.startswith("on")}
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_names_cannot_become_markup() -> None:
    report = build(layers=(replace(layer(0), name=HOSTILE, weight=HOSTILE), replace(layer(3), reason=HOSTILE)))
    told = LayerDiagnosis(HOSTILE, pattern=True, eligible=False, chosen=False, reason=HOSTILE, engine_layer=HOSTILE)
    report = replace(
        report,
        engine=engine(report, layers=(told,), device=HOSTILE, not_measured=HOSTILE, disagreements=(HOSTILE,)),
        output=replace(report.output, path=HOSTILE),
        settings={HOSTILE: HOSTILE},
        warnings=(HOSTILE,),
    )
    text = render(report, masks(report))
    page = Page(text)
    assert page.tags.count("script") == 2  # ours, and the masks' data
    assert "textarea" not in page.tags
    assert "alert(1)</script>" not in text.replace("<wbr>", "")
    assert list(read_masks(text)) == [HOSTILE]
    for around in (f"{HOSTILE}: 2:4 sparsity report", f"at {HOSTILE}.", f"{HOSTILE}: 0.4 %", f"Warning. {HOSTILE}"):
        assert around in page.text


def test_random_data_and_a_failed_gate_are_headlines() -> None:
    random = DataFacts("random", "random", fit=20, choice=6, report=6, is_random=True)
    found = (Gate("min-snr", None, 15, "dB", passed=False), Gate("max-accuracy-drop", 0.4, 0.5, "points", passed=True))
    text = Page(render(build(data=random, gates=found))).text
    headline = text[: text.index("Sparse against dense, in detail")]
    assert "inputs were random, so the masks are not based on data." in headline
    assert "gate failed: min-snr." in headline
    assert "Gates failed Gate" in headline
    assert "min-snr at least 15 dB not measured failed" in headline


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((("passed", True), ("", True)), "passed"),
        ((("passed", True), ("inconclusive", True)), "inconclusive"),
        ((("inconclusive", True), ("", False)), "failed"),
        ((("inconclusive", False),), "inconclusive"),
    ],
)
def test_the_worst_gate_decides(verdicts: Any, said: str) -> None:
    found = tuple(Gate("min-snr", 1, 2, "dB", passed=passed, verdict=verdict) for verdict, passed in verdicts)
    assert overall_verdict(build(gates=found)) == said


def test_an_inconclusive_gate_under_strict_says_that_it_failed() -> None:
    strict = Gate("min-snr", 16, 15, "dB", passed=False, verdict="inconclusive", low=13, high=19)
    (row,) = gates(build(gates=(strict,)))
    assert (row.value, row.words) == ("16 dB (13 to 19)", "inconclusive, failed")


def test_without_an_engine_the_page_says_so_and_shows_no_ratio() -> None:
    text = Page(render(build(engine=None))).text
    assert "98 found 74 pruned to 2:4" in text
    assert "Speed-up Not measured No engine was built or timed in this run. Estimate, not measured: at most" in text
    assert "Latency" not in text
    assert "÷" not in text


def test_times_without_a_speedup_are_never_called_one() -> None:
    cpu = EngineReport(
        "onnxruntime", "1.23", "fp32", "CPU", "no sparse speed-up exists there", latency=(point(1, 1.3), point(8, 1.2))
    )
    page = Page(render(build(engine=cpu))).text
    first = page.partition("Sparse against dense, in detail")[0]
    assert (
        "Not measured No sparse speed-up exists there. Engine: ONNX Runtime 1.23 fp32 (not TensorRT) on CPU." in first
    )
    assert "1.3 ×" not in first
    assert "These times are no speed-up: no sparse speed-up exists there." in page
    assert "Ratio of times, no speed-up" in page


def test_torch_is_named_and_never_tensorrt() -> None:
    report = build()
    told = tuple(
        LayerDiagnosis(
            entry.name, pattern=True, eligible=fits, chosen=fits, reason="" if fits else "N = 35 is not a multiple of 8"
        )
        for entry, fits in zip(report.layers, [True, False] * 49, strict=True)  # dense layers too, as that engine does
    )
    torch = EngineReport("torch", "2.13", "fp16", "NVIDIA A100", layers=told, latency=(point(8, 1.1),))
    text = Page(render(replace(report, engine=torch))).text
    chosen = sum(entry.state == "sparse" and told[place].chosen is True for place, entry in enumerate(report.layers))
    assert f"{chosen} fits torch.sparse {chosen} run by torch.sparse" in text
    assert "Engine: torch.sparse 2.13 fp16 (not TensorRT) on NVIDIA A100." in text
    assert "sparse tactic chosen" not in text
    rows, unknown = steps(replace(report, engine=torch))
    assert (rows[-1].layers, unknown) == (str(chosen), "")


@pytest.mark.parametrize(
    ("eligible", "chosen", "state", "rank"),
    [
        (True, True, "sparse tactic", 0),
        (None, True, "sparse tactic", 0),
        (True, False, "eligible, not chosen", 1),
        (True, None, "eligible, choice not told", 1),
        (None, False, "dense tactic", 2),
        (None, None, "not told", 2),
        (False, False, "not eligible", 3),
        (False, None, "not eligible", 3),
    ],
)
def test_states_are_said_as_far_as_they_are_known(
    eligible: bool | None, chosen: bool | None, state: str, rank: int
) -> None:
    told = LayerDiagnosis("n", pattern=True, eligible=eligible, chosen=chosen)
    assert engine_state(told, is_torch=False) == (state, rank)


def test_what_no_log_tells_is_a_dash_and_counted() -> None:
    report = build()
    told = tuple(LayerDiagnosis(entry.name, pattern=True, eligible=None, chosen=None) for entry in report.sparse_layers)
    rows, unknown = steps(replace(report, engine=engine(report, layers=told)))
    assert [row.layers for row in rows] == ["98", "74"]
    assert unknown == (
        "It is not known whether 74 of 74 pruned layers are eligible, "
        "nor whether 74 of 74 pruned layers got a sparse tactic."
    )


def test_the_estimate_never_stands_among_the_measurements() -> None:
    found = speed(build(engine=None))
    assert (found.timings, found.reason) == ([], "no engine was built or timed in this run")
    assert found.bound == "1.64 ×"
    assert speed(build(engine=None, estimate=None)).bound == ""


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (OutputReport("y", None, None, None, None, equal=0.25), "Worst output: 25 % of entries equal (y)"),
        (OutputReport("y", None, None, None, None, not_compared="its size varies"), "No output could be compared."),
        (
            OutputReport("y", -math.inf, 0.0, math.inf, None, not_finite=3),
            "Worst output: NaN or Inf in 3 entries (y)",
        ),
    ],
)
def test_the_first_screen_says_what_is_known_of_outputs_without_a_ratio(output: OutputReport, said: str) -> None:
    page = Page(render(build(accuracy=AccuracyReport(9, {}, {}, (output,)))))
    assert said in page.text.partition("Sparse against dense, in detail")[0]


def test_nothing_eligible_leaves_no_empty_sections() -> None:
    page = Page(render(nothing_eligible()))
    assert "Nothing eligible: model.onnx is a byte copy of the input." in page.text
    assert "6 found 0 pruned to 2:4" in page.text
    assert "2 × the weight is not a constant of the model" in page.text
    assert "figure" not in page.tags
    for absent in (
        "in detail",
        "Worst output",
        "Data",
        "Warning",
        "Calibration took",
        "parameters",
        "Mask",
        "Estimate",
    ):
        assert absent not in page.text.replace("Parameters", ""), absent


def test_without_accuracy_no_figure_is_made_up() -> None:
    text = Page(render(build(accuracy=None, gates=()))).text
    assert "Accuracy Not measured" in text
    assert "Gates None set" in text
    assert "top-1" not in text
    assert "SNR" not in text


@pytest.mark.parametrize(
    "refinement", [None, RefinementReport(kept=False, reason="not differentiable here: operator If at node n")]
)
def test_what_was_not_tried_has_no_curve(refinement: RefinementReport | None) -> None:
    page = render(build(refinement=refinement))
    assert 'id="refinement-title"' not in page
    assert ("operator If at node n" in page) == (refinement is not None)


def test_three_hundred_layers_with_masks_stay_under_a_megabyte() -> None:
    report = with_budget(build(300))
    assert len(render(report, masks(report)).encode()) < 1_000_000


@pytest.mark.parametrize("change", [lambda report: report, lambda report: replace(report, engine=None)])
def test_the_same_report_is_the_same_page(change: Callable[[Report], Report]) -> None:
    report = change(build())
    assert render(report, masks(report)) == render(report, masks(report))


def test_values_are_written_for_people() -> None:
    assert format_value({"x": [1, 3], "y": None, "z": True}) == "x: 1, 3, y: not set, z: yes"
    assert format_value(()) == format_value({}) == "none"
    assert format_value(0.123456) == "0.123"
    assert details(layer(3)) == ""


def test_the_largest_errors_have_bars_with_their_names() -> None:
    bars = html_charts.worst_errors(build().layers)
    errors = sorted((layer.relative_error or 0 for layer in build().sparse_layers), reverse=True)
    assert len(bars) == 12
    assert bars[0].width == pytest.approx(100)
    assert bars[5].width == pytest.approx(100 * errors[5] / errors[0])
    assert {bar.name for bar in bars} <= {layer.name for layer in build().sparse_layers}
    assert html_charts.worst_errors(nothing_eligible().layers) == []


def test_products_of_activations_are_folded_away_and_so_is_how_a_layer_was_solved() -> None:
    reason = "the weight is not a constant of the model (both operands are activations)"
    product = replace(layer(3), name="/attention/MatMul", weight=None, reason=reason)
    text = render(build(layers=(*build().layers, product)))
    table = text[text.index('<table id="layers">') :].partition("</table>")[0]
    assert "/attention/" not in table
    folded = text[text.index("1 products of two activations") :].partition("</details>")[0]
    assert "<li>/attention/MatMul</li>" in folded
    assert table.count('<small class="solved">blend 1, damping') == 74


def test_the_objective_is_explained_and_the_page_of_many_layers_is_small() -> None:
    assert "It is 0 where both models say the same; no label is needed for it." in Page(render(build())).text
    assert len(render(with_budget(build(300)), masks(build(300))).encode()) < 1_000_000


def test_what_no_line_may_break_is_marked_and_what_is_copied_stays() -> None:
    said = keep_together("97.6 % <b> is at most 2 × with --max-accuracy-drop")
    assert said == (
        "97.6\N{NO-BREAK SPACE}% &lt;b&gt; is at most 2\N{NO-BREAK SPACE}× with "
        '<span class="whole">--max-accuracy-drop</span>'
    )
    line = "trtexec --onnx=model.onnx --verbose"
    assert re.sub("<[^>]*>", "", keep_dashes(line)) == line
    assert keep_dashes(line).count('<span class="whole">--') == 2


def test_options_that_are_not_set_are_named_in_one_line() -> None:
    page = render(replace(build(), settings={"effort": "fast", "memory": None, "stride": None}))
    assert "Options that were not set: memory, stride</p>" in page
    assert "<dt>effort</dt>" in page
    assert "<dt>memory</dt>" not in page
