"""`report.html`: complete, self-contained, escaped; and it works in a browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prox24_export.report import html
from prox24_export.report.html import HEIGHT, chart, details, render, written
from prox24_export.report.model import DataFacts, Gate, RefinementReport
from tests.report.example import build, layer, nothing_eligible

VOID = {"meta", "link", "input", "wbr", "br"}
LOADS = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


class Page(HTMLParser):
    """Fails on a tag that is not closed in order; collects text, rows and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADS]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)


def test_figures_reasons_and_facts_appear() -> None:
    text = Page(render(build())).text
    for words in (
        "74 of 98 linear layers are 2:4 sparse; top-1 97.2 % against 97.6 % dense (−0.4 points).",
        "Warning. 12 samples were left out",
        "68 % of the model’s parameters",
        "max-accuracy-drop",
        "at least 15 dB",
        "98.81 %",
        "the largest error is 17.8 %, at /encoder/layers.6/fc2/MatMul.",
        "6 × excluded by the user",
        "the reduction dimension is not a multiple of 4 (K = 35)",
        "one weight, 2 uses",
        "blend 1, damping 0.003, iterations 140, seconds 0.42: every group settled on its mask",
        "18,240 node executions in 41 stages, 2.4 × one dense pass",
        "blend, then masks and weights",
        "b" * 64,
        "*/head/*",
        "1.23.0",
        "Linux x86_64",
    ):
        assert words in text, words


def test_every_layer_has_a_row_and_every_sparse_one_a_bar() -> None:
    page = Page(render(build()))
    assert page.tags.count("rect") == 74
    assert render(build()).count('<th scope="row">') == 98


def test_nothing_is_loaded() -> None:
    text = render(build(300))
    assert Page(text).loads == ["data:,"]
    assert re.search(r"https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest", text) is None
    assert "default-src 'none'" in text


def test_names_cannot_become_markup() -> None:
    name = "<script>alert(1)</script>\"'&"
    text = render(build(layers=(replace(layer(0), name=name), replace(layer(3), reason=name)), settings={name: name}))
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "alert(1)</script>" not in text.replace("<wbr>", "")
    for around in (f"at {name}.", f"{name}: 0.4 %", f"1 × {name.partition(' (')[0]}", f"Settings {name}{name}"):
        assert around in page.text


def test_random_data_and_a_failed_gate_are_headlines() -> None:
    random = DataFacts("random", "random", fit=20, choice=6, report=6, is_random=True)
    gates = (Gate("min-snr", None, 15, "dB", passed=False), Gate("max-accuracy-drop", 0.4, 0.5, "points", passed=True))
    text = Page(render(build(data=random, gates=gates))).text
    headline = text[: text.index("Accuracy and gates")]
    assert "inputs were random, so the masks are not based on data." in headline
    assert "gate failed: min-snr." in headline
    assert "Gates failed 1 of 2 kept" in headline


def test_nothing_eligible_leaves_no_empty_sections() -> None:
    page = Page(render(nothing_eligible()))
    assert "Nothing eligible: model.onnx is a byte copy of the input." in page.text
    assert "2 × the weight is not a constant of the model" in page.text
    assert "svg" not in page.tags
    for absent in ("Accuracy", "Gates", "Worst output", "Data", "Warning", "Calibration took", "parameters"):
        assert absent not in page.text, absent


def test_without_accuracy_no_figure_is_made_up() -> None:
    text = Page(render(build(accuracy=None, gates=()))).text
    assert "accuracy was not measured" in text
    assert "top-1" not in text
    assert "SNR" not in text


def test_three_hundred_layers_stay_under_a_megabyte() -> None:
    assert len(render(build(300)).encode()) < 1_000_000


def test_bars_keep_their_proportions_inside_the_plot() -> None:
    drawn = chart([replace(layer(0), relative_error=error) for error in (0.0, 0.05, 0.1)])
    assert drawn is not None
    assert [bar.height for bar in drawn.bars] == pytest.approx([0, HEIGHT / 2, HEIGHT])
    assert [label for _, label in drawn.ticks] == ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]
    assert drawn.ticks[-1][0] == pytest.approx(HEIGHT)


@pytest.mark.parametrize("largest", [1e-300, 1e-8, 0.005, 0.3, 0.99, 1.0, 7e5])
def test_any_error_fits_the_axis(largest: float) -> None:
    drawn = chart([replace(layer(0), relative_error=largest)] * 50)
    assert drawn is not None
    assert drawn.bars[0].height <= HEIGHT + 1e-6
    assert drawn.bars[-1].x + drawn.bars[-1].width <= 100
    assert 2 <= len(drawn.ticks) <= 6


def test_layers_without_a_finite_error_have_no_bar() -> None:
    assert chart([replace(layer(0), relative_error=error) for error in (None, float("nan"), float("inf"))]) is None


def test_values_are_written_for_people() -> None:
    assert written({"x": [1, 3], "y": None, "z": True}) == "x: 1, 3, y: not set, z: yes"
    assert written(()) == written({}) == "none"
    assert written(0.123456) == "0.123"
    assert details(layer(3)) == ""


def test_a_browser_runs_it(tmp_path: Path) -> None:
    """Rows are there, sorting and filtering work, nothing is logged as an error, nothing is wider than the window."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on PATH")
    use = """<script>
    heads[3].firstElementChild.click(); heads[3].firstElementChild.click();
    filter.value = "Q_PROJ sparse"; filter.dispatchEvent(new Event("input"));
    const spare = document.documentElement.clientWidth - document.documentElement.scrollWidth;
    document.title = `spare ${spare}, worst ${body.rows[0].cells[3].textContent}`;
    </script></body>"""
    page = tmp_path / "report.html"
    page.write_text(render(build()).replace("</body>", use), encoding="utf-8")
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--window-size=390,1600", "--dump-dom"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count('<th scope="row">') == 98
    assert '<th scope="col" class="number" aria-sort="descending">' in done.stdout
    assert done.stdout.count('aria-sort="') == 1
    assert "<title>spare 0, worst 17.8 %</title>" in done.stdout
    shown = re.search(r"(\d+) of 98 layers", done.stdout)
    assert shown is not None
    assert done.stdout.count('<tr hidden="">') == 98 - int(shown[1])
    assert int(shown[1]) == sum("q_proj" in entry.name for entry in build().sparse_layers)


def test_the_refinement_shows_its_decision_and_its_curve() -> None:
    page = html.render(build())
    assert "kept: the held-back samples&#39; objective went from 0.52 to 0.31" in page
    assert "0.52 layer by layer, 0.31 refined, 877 samples" in page
    drawn = html.curve(build().refinement)
    assert drawn is not None
    held = [tuple(map(float, point.split(","))) for point in drawn.held.split()]
    assert (len(held), len(drawn.train.split())) == (7, 6)  # nothing was trained before the first epoch
    assert [x for x, _ in held] == sorted(x for x, _ in held)
    assert [y for _, y in held] == sorted(y for _, y in held)  # down the page: it fell
    assert (held[0][0], held[-1][0]) == (0, 1000)
    assert "6 epochs; held-back samples from 0.52 to 0.331" in drawn.description


@pytest.mark.parametrize(
    "refinement", [None, RefinementReport(kept=False, reason="not differentiable here: operator If at node n")]
)
def test_what_was_not_tried_has_no_curve(refinement: RefinementReport | None) -> None:
    page = html.render(build(refinement=refinement))
    assert html.curve(refinement) is None
    assert "<polyline" not in page
    assert ("operator If at node n" in page) == (refinement is not None)
