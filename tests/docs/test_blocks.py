"""Every block of README and of the pages that can run here is run, on the sample and with little work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped, unused-ignore] # its types are a package of their own

from prox24_export import cli
from tests.docs.markdown_pages import MAIN_JOB, PAGES, ROOT, Block, blocks, known_options

EVERY_BLOCK = [block for path in PAGES for block in blocks(path)]
SUB_COMMANDS = {"inspect", "bench", "report"}
LITTLE_WORK = ("--samples", "64", "--no-refine", "--permute=no", "--quiet", "--force")
PERPLEXITY = r"\{'perplexity': [\d.]+\}"
PRINTED = {  # what a Python block prints, by a name in it
    "save_pretrained": rf"{PERPLEXITY} {PERPLEXITY}\n",
    "torch.nn.Sequential": "",
    "digits-sparse": r"26 16 True\n",
    "max_accuracy_drop": r"(\S+ \S+ \S+\n){26}17 True\n",
    "json.load": r"17 \{'top1': [\d.]+, 'top5': [\d.]+\}\n",
    "def confidence": "",
    "basicConfig": "",
    "solve_layer": r"torch\.Size\(\[32, 64\]\) 0\.\d+ .+\ntensor\(\[.*\]\)\n",
}


def those(language: str) -> list[Block]:
    return [block for block in EVERY_BLOCK if block.language == language and block.is_run]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with what the pages speak of: the sample under its own names and as `model.onnx`."""
    folder = tmp_path_factory.mktemp("workshop")
    sample = folder / "samples" / "digits"
    shutil.copytree(ROOT / "samples" / "digits", sample)
    shutil.copy(sample / "digits_vit.onnx", folder / "model.onnx")
    shutil.copy(sample / "digits_vit.onnx", folder / "sparse.onnx")
    for name in ("calibration.npz", "evaluation.npz"):
        shutil.copy(sample / name, folder / name)
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    with one_core():
        yield folder
    torch.set_num_threads(threads)
    os.chdir(before)


@contextmanager
def one_core() -> Iterator[None]:
    """One core for this process and those that it starts: on small models, more threads mostly wait for each other."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def arguments_of(command: str) -> list[str]:
    """What follows `prox24-export`, with options that make a run short where a page shows one with the defaults."""
    name, *arguments = shlex.split(command)
    assert name == "prox24-export", f"{command} is no command of ours: mark the block with <!-- not run: reason -->"
    if arguments[0] in SUB_COMMANDS:
        return arguments
    short = [option for option in LITTLE_WORK if option not in arguments]
    return [*arguments, *short]


@pytest.mark.parametrize("page", [path.name for path in PAGES])
def test_every_command_of_a_page_runs(page: str, workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In their order and in one folder, as a reader would: later commands read what earlier ones wrote."""
    for block in EVERY_BLOCK:
        if block.page == page and block.remark.startswith("file: "):
            name, _, source = block.remark.removeprefix("file: ").partition(" is ")
            (workshop / name).write_bytes((workshop / source).read_bytes() if source else block.text.encode())
        if block.page == page and block.language == "sh" and block.is_run:
            for command in block.commands:
                if command != MAIN_JOB:  # test_readme.py runs it as it is
                    code = cli.main(arguments_of(command))
                    assert code == cli.PASSED, f"{block}: {command}\n{capfd.readouterr().err}"
    for name in ("prox24.toml", "metrics.py"):
        (workshop / name).unlink(missing_ok=True)


def test_a_command_with_a_wrong_option_does_not_pass(workshop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (workshop / "model.onnx").is_file()
    assert cli.main(arguments_of("prox24-export model.onnx --no-such-option 1")) != cli.PASSED
    assert "--no-such-option" in capfd.readouterr().err


def test_a_foreign_command_that_is_not_marked_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not run"):
        arguments_of("python benchmarks/solver.py")


def expected_output(text: str) -> str:
    """A pattern for what a Python block prints."""
    return next(pattern for sign, pattern in PRINTED.items() if sign in text)


def with_little_work(text: str) -> str:
    """A Python block with settings that make a run short, unless it says itself what is refined."""
    return text if "refine=" in text else text.replace("Settings(", 'Settings(refine="no", permute="no", samples=64, ')


@pytest.mark.parametrize("block", those("python"), ids=str)
def test_every_python_block_runs(block: Block, workshop: Path) -> None:
    if "digits_vit-2to4" in block.text and not (workshop / "digits_vit-2to4").is_dir():
        run = "prox24-export samples/digits/digits_vit.onnx --calibration calibration.npz --evaluation evaluation.npz"
        assert cli.main(arguments_of(run)) == cli.PASSED
    command = [sys.executable, "-c", with_little_work(block.text)]
    result = subprocess.run(command, cwd=workshop, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(expected_output(block.text), result.stdout, re.DOTALL), result.stdout


@pytest.mark.parametrize("block", those("toml"), ids=str)
def test_every_toml_block_names_options_that_exist(block: Block) -> None:
    assert not unknown_keys(block.text)


def test_a_toml_key_that_is_no_option_is_found() -> None:
    assert unknown_keys('strict = true\nstrikt = true\n[inspect]\nformat = "json"\nnone = 1\n') == ["strikt", "none"]


def unknown_keys(text: str) -> list[str]:
    """Keys of a file of options that are neither an option nor a sub-command's table."""
    tables = [tomllib.loads(text)]
    tables += [value for value in tables[0].values() if isinstance(value, dict)]
    keys = [key for table in tables for key, value in table.items() if not isinstance(value, dict)]
    return [key for key in keys if f"--{key}" not in known_options()]


@pytest.mark.parametrize("block", those("yaml"), ids=str)
def test_every_yaml_block_is_a_step_whose_command_runs(block: Block, workshop: Path) -> None:
    assert (workshop / "model.onnx").is_file()
    for step in yaml.safe_load(block.text):
        assert cli.main(arguments_of(step["run"])) == cli.PASSED


def test_the_metric_of_the_data_page_is_what_it_says() -> None:
    """The mean probability of the right class, by hand."""
    (block,) = (block for block in those("python") if block.remark == "file: metrics.py")
    names: dict[str, object] = {}
    exec(block.text, names)  # noqa: S102 - our own page
    logits = np.log(np.array([[0.25, 0.75], [0.9, 0.1]]))
    confidence = names["confidence"]
    assert callable(confidence)
    found = confidence(lambda _: {"logits": logits}, [({}, np.array([1, 1]))])
    np.testing.assert_allclose(found, [0.75, 0.1])
