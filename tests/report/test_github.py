"""GitHub: one workflow command a line that no name can break out of, the page's summary, and figures over time."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from prox24_export.report import content, github, github_benchmark, markdown
from prox24_export.results.engine import EngineReport
from prox24_export.results.report import AccuracyReport, Better, Gate, OutputReport, Report
from tests.report.example import build, full
from tests.report.reports import reports

COMMAND = re.compile(r"::(?P<kind>error|warning|notice) title=(?P<title>[^:,\r\n]*)::(?P<message>[^\r\n]*)")
ESCAPES = {"%0A": "\n", "%0D": "\r", "%3A": ":", "%2C": ",", "%25": "%"}


def commands(text: str) -> list[tuple[str, str, str]]:
    """Workflow commands as the runner reads them: a line each, escapes undone."""
    lines = text.split("\n")
    assert lines.pop() == ""
    found = []
    for line in lines:
        match = COMMAND.fullmatch(line)
        assert match, line
        found.append((match["kind"], _undone(match["title"]), _undone(match["message"])))
    return found


def _undone(text: str) -> str:
    assert re.search("%(?!25|0A|0D|3A|2C)", text) is None, text
    return re.sub("%(25|0A|0D|3A|2C)", lambda found: ESCAPES[found[0]], text)


def figures(report: Report, better: Better) -> dict[str, float]:
    return {entry["name"]: entry["value"] for entry in json.loads(github_benchmark.render(report, better))}


def test_failed_gates_are_errors_doubts_and_warnings_are_warnings_and_the_verdict_is_a_notice() -> None:
    kinds: dict[str, list[tuple[str, str]]] = {}
    for kind, title, message in commands(github.render(full())):
        kinds.setdefault(kind, []).append((title, message))
    assert [title for title, _ in kinds["error"]] == [
        "gate max-metric-change",
        "gate min-speedup",
        "gate min-sparse-layers",
    ]
    assert kinds["warning"][0][0] == "gate max-accuracy-drop"
    assert ("prox24-export", "12 samples were left out: their shapes fit no other.") in kinds["warning"]
    assert any("coefficient of variation 3.1 %" in message for _, message in kinds["warning"])
    assert kinds["notice"][0] == ("prox24-export", content.verdict(full()))
    assert kinds["notice"][1][0] == "estimate, not a measurement"


def test_a_run_that_kept_everything_has_no_error() -> None:
    assert [kind for kind, _, _ in commands(github.render(build(warnings=())))] == ["notice"]


def test_what_was_not_measured_is_told_with_its_reason() -> None:
    report = build(engine=EngineReport("none", not_measured="no GPU was found"))
    assert ("notice", "prox24-export", "speed-up not measured: no GPU was found") in commands(github.render(report))


def test_no_name_ends_its_command_or_begins_another() -> None:
    name = "a,b::c\r\n::error::injected %0A 100 %"
    report = build(gates=(Gate(name, 1, 2, name, passed=False),), warnings=(name,))
    text = github.render(report)
    found = commands(text)
    assert ("error", f"gate {name}", f"failed: 1 {name}, limit at most 2 {name}") in found
    assert ("warning", "prox24-export", name) in found
    assert "\n::error::" not in text


def test_no_more_of_a_kind_than_github_shows_and_the_rest_is_counted() -> None:
    found = commands(github.render(build(warnings=tuple(f"warning {index}" for index in range(30)))))
    warnings = [message for kind, _, message in found if kind == "warning"]
    assert len(warnings) == github.MOST
    assert warnings[-1] == "21 more; report.json and the summary have them all"


def test_a_long_message_is_cut() -> None:
    (message,) = (
        text for kind, _, text in commands(github.render(build(warnings=("w" * 9_999,)))) if kind == "warning"
    )
    assert len(message) == github.LONGEST + 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_any_report_is_a_line_for_each_command(report: Report) -> None:
    assert commands(github.render(report))


def test_the_summary_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("an earlier step", encoding="utf-8")
    assert github.append_summary(full(), {"GITHUB_STEP_SUMMARY": str(path)}) == ""
    assert path.read_text(encoding="utf-8") == f"an earlier step\n{markdown.render(full())}\n"


@pytest.mark.parametrize("environment", [{}, {"GITHUB_STEP_SUMMARY": ""}])
def test_without_the_variable_nothing_is_written(environment: dict[str, str]) -> None:
    assert github.append_summary(full(), environment) == ""


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "summary")
    ((kind, _, message),) = commands(github.append_summary(full(), {"GITHUB_STEP_SUMMARY": path}))
    assert kind == "warning"
    assert message == f"the summary cannot be written to {path} (GITHUB_STEP_SUMMARY): No such file or directory"


def test_benchmark_entries_have_what_the_action_reads() -> None:
    for better in ("lower", "higher"):
        entries = json.loads(github_benchmark.render(full(), better))
        assert entries
        assert len({entry["name"] for entry in entries}) == len(entries)
        for entry in entries:
            assert {"name", "unit", "value"} <= set(entry) <= {"name", "unit", "value", "range", "extra"}
            assert isinstance(entry["value"], (int, float))
            assert all(isinstance(entry[key], str) and entry[key] for key in set(entry) - {"value"})


def test_each_direction_has_its_own_figures() -> None:
    lower, higher = figures(full(), "lower"), figures(full(), "higher")
    assert not set(lower) & set(higher)
    assert lower["word_errors"] == 4.25
    assert lower["latency sparse clip 1×98×40"] == 0.66
    assert lower["size of the sparse model"] == 13_421_773
    assert higher["top1"] == 97.2
    assert higher["SNR of embedding"] == 17.05
    assert higher["speed-up clip 1×98×40"] == 1.231
    assert higher["sparse layers"] == 9


def test_what_is_not_valid_or_an_estimate_is_no_figure() -> None:
    for better in ("lower", "higher"):
        text = github_benchmark.render(full(), better)
        assert "clip 8" not in text
        assert "stimate" not in text


def test_a_metric_that_tells_no_direction_is_in_neither() -> None:
    report = build(accuracy=AccuracyReport(1, {"mine": 1.0}, {"mine": 1.0}, ()))
    assert "mine" not in figures(report, "lower") | figures(report, "higher")


def test_equal_entries_are_a_figure_of_which_more_is_better() -> None:
    outputs = (OutputReport("y", None, None, None, None, equal=0.875),)
    report = build(accuracy=AccuracyReport(1, {}, {}, outputs))
    assert "equal entries of y" in figures(report, "higher")
    assert "equal entries of y" not in figures(report, "lower")


def test_infinities_are_left_out() -> None:
    outputs = (OutputReport("y", math.inf, 1.0, 0.0, None), OutputReport("z", None, 1.0, 0.0, None))
    accuracy = AccuracyReport(1, {"top1": math.nan}, {"top1": math.nan}, outputs)
    assert set(figures(build(accuracy=accuracy), "higher")) == {"sparse layers"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_any_report_gives_valid_json(report: Report) -> None:
    for better in ("lower", "higher"):
        json.loads(github_benchmark.render(report, better), parse_constant=pytest.fail)


def test_the_engine_of_a_figure_is_beside_it_and_not_in_its_name() -> None:
    assert full().engine is not None
    engine = replace(full().engine or EngineReport("none"), version="11.0", device="")
    assert set(figures(replace(full(), engine=engine), "lower")) == set(figures(full(), "lower"))
    assert '"extra": "TensorRT 11.0 fp16"' in github_benchmark.render(replace(full(), engine=engine))
