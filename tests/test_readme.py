import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAIN_JOB = (
    "pip install -c constraints.txt . && prox24-export samples/digits/digits_vit.onnx --calibration "
    "samples/digits/calibration.npz --evaluation samples/digits/evaluation.npz"
)
TESTS = "pip install -c constraints.txt -e '.[test]' && pytest"
SECONDS = re.compile(r"\(\d+\.\d s\)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_each_command_stands_on_one_line_of_its_own() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == [MAIN_JOB, TESTS]


def test_the_shown_output_is_what_the_first_command_prints(tmp_path: Path) -> None:
    arguments = MAIN_JOB.split("prox24-export ")[1].split()
    shutil.copytree(ROOT / "samples" / "digits", tmp_path / "samples" / "digits")
    command = [sys.executable, "-m", "prox24_export", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = blocks("text")[0]
    lost = re.search(r"top1: ([\d.]+) % dense, ([\d.]+) % sparse", result.stdout)
    assert lost is not None
    assert float(lost[1]) - float(lost[2]) <= 1.0
    assert without_figures(result.stdout) == without_figures(shown)
    files = {path.name for path in (tmp_path / "digits_vit-2to4").iterdir()}
    assert files == {"model.onnx", "report.html", "report.json", "summary.md", "junit.xml"}


def without_figures(text: str) -> str:
    """The accuracy of a sparse model moves with the machine's rounding by an image or two; the text does not."""
    return re.sub(r"\d+\.\d+", "#", SECONDS.sub("(# s)", text))


def of_onnx(printed: str) -> bool:
    return printed.split() == ["26", "16", "True"]


def of_transformers(printed: str) -> bool:
    return printed.count("{'perplexity': ") == 2


def of_a_module(printed: str) -> bool:
    return not printed


@pytest.mark.parametrize(
    ("block", "is_right"), list(zip(blocks("python"), (of_transformers, of_a_module, of_onnx), strict=True))
)
def test_python_blocks_run(block: str, is_right: Callable[[str], bool], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "samples" / "digits", tmp_path / "samples" / "digits")
    result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert is_right(result.stdout), result.stdout


def test_the_table_shows_the_measured_figures() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "methods.json").read_text(encoding="utf-8"))
    baselines, ours = ("dense", "magnitude", "wanda", "sparsegpt"), ("prox-gradient", "prox", "refined")
    for row in measured["rows"]:
        shown = next(line for line in README.splitlines() if line.startswith(f"| {row['model'].split()[0]}"))
        cells = [cell.replace("*", "").strip() for cell in shown.split("|")[2:-1]]
        assert cells[:4] == [f"{row[method]:.1f}" for method in baselines]
        assert cells[4:] == [f"{row[method]:.1f} ({row[f'{method} seconds']:.0f} s)" for method in ours]


def test_the_code_map_names_files_that_are_there() -> None:
    tree = README.split("## Code map")[1]
    for folder, name in re.findall(r"\b(passes|solver|engines|validation|report)/ |\b([a-z_]+\.py)\b", tree):
        wanted = folder or name
        assert list(ROOT.glob(f"**/{wanted}")), f"{wanted} is in README's code map but not in the tree"


def test_every_option_of_the_command_that_readme_names_exists() -> None:
    shown = "".join(
        subprocess.run(
            [sys.executable, "-m", "prox24_export", *command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for command in ([], ["inspect"], ["bench"], ["report"])
    )
    ours = set(re.findall(r"`(--[a-z-]+)", README))
    assert ours
    assert not {option for option in ours if option not in shown} - {"--fp16", "--sparsity"}  # trtexec's
