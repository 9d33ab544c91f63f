"""README: its two commands, what the first prints, its table, and the version of torch that it names."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown_pages import MAIN_JOB, ROOT, blocks

README = ROOT / "README.md"
BENCHMARKS, QUICKSTART = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "quickstart.md"
TORCH, FAQ = ROOT / "docs" / "torch-and-transformers.md", ROOT / "docs" / "faq.md"
TESTS = "pip install -c constraints.txt -e '.[test]' && pytest"
SECONDS = re.compile(r"\(\d+\.\d s\)")


def test_each_command_stands_on_one_line_of_its_own() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("pip install -c constraints.txt . ")] == [MAIN_JOB]
    assert [line for line in lines if line.startswith("pip install -c constraints.txt -e '.[test]'")] == [TESTS]
    assert {MAIN_JOB, TESTS} <= {block.text.strip() for block in blocks(README)}


def test_the_shown_output_is_what_the_first_command_prints(tmp_path: Path) -> None:
    arguments = MAIN_JOB.split("prox24-export ")[1].split()
    shutil.copytree(ROOT / "samples" / "digits", tmp_path / "samples" / "digits")
    command = [sys.executable, "-m", "prox24_export", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lost = re.search(r"top1: ([\d.]+) % dense, ([\d.]+) % sparse", result.stdout)
    assert lost is not None
    assert float(lost[1]) - float(lost[2]) <= 1.0
    for page in (README, QUICKSTART):
        (shown,) = (block.text for block in blocks(page) if block.remark.startswith("output of"))
        assert without_figures(result.stdout) == without_figures(shown)
    files = {path.name for path in (tmp_path / "digits_vit-2to4").iterdir()}
    assert files == {"model.onnx", "report.html", "report.json", "summary.md", "junit.xml", "DEPLOY.md"}


def without_figures(text: str) -> str:
    """The accuracy of a sparse model moves with the machine's rounding by an image or two; the text does not."""
    return re.sub(r"[±+−]?\d+\.\d+|[±+−]\d+", "#", SECONDS.sub("(# s)", text))


@pytest.mark.parametrize("page", [README, BENCHMARKS], ids=lambda page: page.name)
def test_the_table_shows_the_measured_figures(page: Path) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    assert not wrong_rows(page.read_text(encoding="utf-8"), measured["rows"])


def test_a_figure_that_was_not_measured_is_found() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    wrong = README.read_text(encoding="utf-8").replace("| 55.0 |", "| 56.0 |")
    assert wrong_rows(wrong, measured["rows"]) == ["ResNet-20"]


def test_sentences_about_the_decoder_have_the_figures_of_the_table() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    (row,) = (row for row in measured["rows"] if row["model"] == "stories260K")
    said = f"perplexity goes from {row['dense']:.1f} to {row['refined']:.1f}"
    assert said in FAQ.read_text(encoding="utf-8")
    assert f"{said}, and to {row['prox']:.1f} layer by layer" in TORCH.read_text(encoding="utf-8")


def wrong_rows(text: str, rows: list[dict[str, float | str]]) -> list[str]:
    """Models whose row of the table does not show what was measured."""
    baselines, ours = ("dense", "magnitude", "wanda", "sparsegpt"), ("prox-gradient", "prox", "refined")
    found = []
    for row in rows:
        model = str(row["model"])
        shown = next(line for line in text.splitlines() if line.startswith(f"| {model.split(maxsplit=1)[0]}"))
        cells = [cell.replace("*", "").strip() for cell in shown.split("|")[2:-1]]
        wanted = [f"{row[method]:.1f}" for method in baselines]
        wanted += [f"{row[method]:.1f} ({row[f'{method} seconds']:.0f} s)" for method in ours]
        if cells != wanted:
            found.append(model)
    return found


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda page: page.name)
def test_the_torch_whose_size_is_told_is_the_one_of_the_constraints(page: Path) -> None:
    (constraint,) = re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"\(torch ([\d.]+), Linux x86-64", page.read_text(encoding="utf-8")) == [constraint]
