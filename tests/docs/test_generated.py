"""Generated parts of pages are current, and hold every option, field and reason that the code knows."""

import ast
import inspect
import re
import subprocess
import sys

import pytest

from docs.generate import options
from docs.generate.reasons import REMEDIES, engine_examples, render_engine_reasons, render_layer_reasons
from docs.generate.regions import PAGES, fill_regions
from docs.generate.schema import render_schema
from docs.generate.tables import render_table
from prox24_export.engines.diagnosis import reasons
from prox24_export.passes.graph.protocol import Reason
from prox24_export.results.reader import load_schema
from tests.docs.markdown_pages import ROOT

COMMANDS = [name for name, _ in options.commands()]
LEAST_LETTERS = 6  # of a piece of a sentence that is looked for
WITHOUT_OPTIONS = {"prox24-export completion"}  # it takes the name of a shell
NOT_OPTIONS = {"--help", "--version"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_generated_parts_are_current(path: object) -> None:
    page = next(page for page in PAGES if page == path)
    text = page.read_text(encoding="utf-8")
    assert fill_regions(text) == text, f"{page.name} is stale: run python -m docs.generate"


def test_a_stale_part_is_found_and_the_rest_stays() -> None:
    stale = "# Mine\n\n<!-- generated: options -->\nof yesterday\n<!-- end of options -->\n\nmine\n"
    filled = fill_regions(stale)
    assert filled.startswith("# Mine\n\n<!-- generated: options -->\n\n## prox24-export\n")
    assert filled.endswith("\n\n<!-- end of options -->\n\nmine\n")
    assert "of yesterday" not in filled


def test_every_part_that_can_be_generated_stands_on_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall("<!-- generated: (.*?) -->", text)) == {
        "gpus",
        "options",
        "report schema",
        "reasons of layers",
        "reasons of engines",
    }


def section(page: str, command: str) -> str:
    """What the page of options says of one command."""
    return page.split(f"\n## {command}\n", 1)[1].split("\n## ", 1)[0]


def missing_options(page: str, command: str) -> set[str]:
    """Options that a command's help and its section of the page do not share."""
    arguments = [sys.executable, "-m", "prox24_export", *command.split()[1:], "--help"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    helped = set(re.findall(r"^[│ ]*\*?\s*(--[a-z0-9-]+)", shown, re.MULTILINE)) - NOT_OPTIONS
    assert helped or command in WITHOUT_OPTIONS
    return helped ^ set(re.findall(r"^\| `(--[a-z0-9-]+)`", section(page, command), re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_is_on_the_page(command: str) -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert not missing_options(page, command)


def test_an_option_that_is_missing_and_one_too_many_are_found() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert "| `--exclude` |" in section(page, "prox24-export inspect")
    head, tail = page.rsplit("| `--exclude` |", 1)
    assert missing_options(f"{head}| `--exclud` |{tail}", "prox24-export inspect") == {"--exclude", "--exclud"}


def test_the_sub_commands_are_those_of_the_command() -> None:
    names = ("inspect", "bench", "report", "completion", "cache")
    assert set(COMMANDS) == {"prox24-export", *(f"prox24-export {name}" for name in names)}


def test_every_field_of_the_schema_is_in_its_object() -> None:
    schema, page = load_schema(), render_schema()
    for name, entry in {"Report": schema, **schema["$defs"]}.items():
        told = page.split(f"### {name}\n", 1)[1].split("\n### ", 1)[0]
        assert set(re.findall(r"^\| `(\w+)`", told, re.MULTILINE)) == set(entry.get("properties", ()))


def test_every_reason_of_a_layer_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Reason)
    for reason in Reason:
        assert f"| {reason.value} |" in render_layer_reasons()


def sentence_pieces(source: str) -> set[str]:
    """The constant pieces of every reason and remedy that a function of `reasons` returns."""
    pieces = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Return) and node.value is not None:
            for inner in ast.walk(node.value):
                if isinstance(inner, ast.Tuple):
                    texts = (text for text in ast.walk(inner) if isinstance(text, ast.Constant))
                    pieces |= {text.value for text in texts if isinstance(text.value, str)}
    return {piece.strip() for piece in pieces if len(piece.strip()) >= LEAST_LETTERS}


def test_every_reason_of_an_engine_is_on_the_page() -> None:
    pieces = sentence_pieces(inspect.getsource(reasons))
    assert len(pieces) >= len(list(engine_examples()))
    assert not {piece for piece in pieces if " ".join(piece.split()) not in render_engine_reasons()}


def test_a_reason_that_is_not_on_the_page_is_found() -> None:
    new = 'def of_moon(n):\n    return f"the moon stands in house {n}, which is wrong", "wait"\n'
    assert sentence_pieces(new) == {"the moon stands in house", ", which is wrong"}


def test_bars_and_line_breaks_do_not_break_a_table() -> None:
    assert render_table(("a", "b"), [("x | y", "one\n two")]) == "| a | b |\n| --- | --- |\n| x \\| y | one two |\n"
