"""Every format but HTML from one fixed run, as files to look at; and that they cannot be written anew by accident."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prox24_export.report import compare, github, github_benchmark, junit, markdown
from prox24_export.results.report import Report
from tests.report.example import full, later
from tests.report.goldens import SWITCH, check

WRITERS: dict[str, Callable[[Report], str]] = {
    "report.json": Report.to_json,
    "summary.md": markdown.render,
    "junit.xml": junit.render,
    "github.txt": github.render,
    "github_benchmark_lower.json": lambda report: github_benchmark.render(report, "lower"),
    "github_benchmark_higher.json": lambda report: github_benchmark.render(report, "higher"),
    "compare.txt": lambda report: compare.render_text(report, later(report)),
    "compare.md": lambda report: compare.render_markdown(report, later(report)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_fixed_run_is_written_as_it_was(name: str) -> None:
    check(name, WRITERS[name](full()))


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_gives_the_same_twice(name: str) -> None:
    assert WRITERS[name](full()) == WRITERS[name](full())


def test_another_text_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old\n", encoding="utf-8")
    check("a.txt", "old\n", tmp_path, {})
    with pytest.raises(AssertionError):
        check("a.txt", "new\n", tmp_path, {})


def test_the_switch_writes_the_file_and_fails_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="look at the difference"):
        check("a.txt", "new\n", tmp_path, {SWITCH: "1"})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new\n"


def test_in_ci_the_switch_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="must not be set in CI"):
        check("a.txt", "new\n", tmp_path, {SWITCH: "1", "CI": "true"})
    assert not list(tmp_path.iterdir())
