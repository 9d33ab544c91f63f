"""The estimate in every writer: what is in none of its figures is named beside them."""

import html
from collections.abc import Callable
from dataclasses import replace

import pytest

from prox24_export.report import github, junit, markdown, terminal
from prox24_export.report.engine_tables import estimate_sentence
from prox24_export.report.html import render as render_page
from prox24_export.results.engine import Estimate, ShapeShare
from prox24_export.results.report import Report
from tests.report.example import full
from tests.report.page import Page

LEFT_OUT = ("2 × MatMul: inside an If, Loop or Scan body", "1 × LSTM: recurrent layer")
ALL = Estimate(1e6, 0.5, 1 / 0.75, (ShapeShare(8, 16, 3, 2, 1, 1e6, 1.0),))
WRITERS: dict[str, Callable[[Report], str]] = {
    "terminal": terminal.render,
    "bench": terminal.latency_table,
    "markdown": markdown.render,
    "html": lambda report: Page(render_page(report)).text,
    "junit": lambda report: html.unescape(junit.render(report)),
    "github": lambda report: github.render(report).replace("%25", "%"),
}


def told(writer: str, estimate: Estimate) -> str:
    """What a writer says, on one line; Markdown's escapes are taken back."""
    text = WRITERS[writer](replace(full(), estimate=estimate))
    return " ".join(text.replace("\\", "").split())


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_names_what_is_in_no_figure_behind_the_figure(writer: str) -> None:
    text = told(writer, replace(ALL, not_counted=LEFT_OUT, of_activations=24))
    words = (
        "of what could be counted; not counted: 2 × MatMul: inside an If, Loop or Scan body; 1 × LSTM: recurrent layer"
    )
    assert 0 <= text.index("1.33") < text.index(words)
    said_once = text.count("products of two activations (24) are no linear layers and are left out")
    assert said_once == (writer not in {"terminal", "bench"}), "the terminal speaks of linear layers only"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_complete_estimate_is_not_qualified(writer: str) -> None:
    text = told(writer, ALL)
    assert "1.33" in text
    assert "could be counted" not in text
    assert "activations" not in text


@pytest.mark.parametrize("writer", WRITERS)
def test_where_nothing_could_be_counted_there_is_no_figure(writer: str) -> None:
    text = told(writer, Estimate(0.0, 0.0, 1.0, (), LEFT_OUT))
    assert "not counted: 2 × MatMul: inside an If, Loop or Scan body; 1 × LSTM: recurrent layer" in text
    assert "1 × as fast" not in text
    assert "1.00 times as fast" not in text
    assert "0 % of the linear" not in text
    assert "0.0 % of the linear" not in text


def test_an_estimate_of_nothing_says_nothing() -> None:
    assert estimate_sentence(Estimate(0.0, 0.0, 1.0, ())) == ""
    assert estimate_sentence(None) == ""
