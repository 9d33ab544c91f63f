"""A report in the hands of a person: short to look at, a table in a notebook, a data frame of its layers."""

import sys
import types
from dataclasses import asdict, replace

import pytest

from prox24_export.errors import UnavailableError
from prox24_export.results.report import AccuracyReport
from tests.report.example import build, full


def test_a_report_is_short_to_look_at() -> None:
    said = "Report(kwt1-2to4/model.onnx: 74 of 98 layers sparse, top1 97.6 → 97.2, passed)"
    assert repr(build()) == str(build()) == said
    assert repr(full()).endswith(", word_errors 4.125 → 4.25, FAILED)")
    assert repr(build(accuracy=None)).endswith("74 of 98 layers sparse, passed)")


def test_a_notebook_shows_a_table_in_which_no_name_is_markup() -> None:
    hostile = AccuracyReport(9, {"<b>x": 1.0}, {"<b>x": 0.5}, ())
    shown = build(accuracy=hostile)._repr_html_()
    assert "<tr><td>sparse layers</td><td>98</td><td>74</td></tr>" in shown
    assert "<td>&lt;b&gt;x</td><td>1</td><td>0.5</td>" in shown
    assert "<td>max-accuracy-drop</td><td>0.5 points</td><td>passed</td>" in shown
    named = replace(build(), output=replace(build().output, path="<script>"))
    assert "<script>" not in named._repr_html_()


def test_its_layers_are_a_data_frame_where_pandas_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=list))
    assert build().to_pandas() == [asdict(layer) for layer in build().layers]


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnavailableError, match=r"to_pandas needs pandas, and pandas .* pip install pandas\."):
        build().to_pandas()
