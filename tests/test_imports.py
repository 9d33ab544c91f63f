"""What the command and the package load, and when: help must not wait for torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.command import command, network
from tests.graphs import normal

HEAVY = {"torch", "onnx", "onnxruntime", "numba"}
OPTIONS = {
    "--calibration": "Default: none",
    "--evaluation": "Default: a fifth of the calibration samples",
    "--out": "Default: MODEL_STEM-2to4 in the current folder",
    "-o": "Folder to write",
    "--method": "[default: prox]",
    "--effort": "[default: default]",
    "--include": "Default: all",
    "--exclude": "Default: none",
    "--samples": "Default: all; 32 random ones",
    "--seed": "[default: 0]",
    "--shapes": "Default: dynamic axes are 1 (the first) and 32 where inputs are random",
    "--damping": "Default: from tokens per input dimension",
    "--blend": "Default: chosen on held-back samples",
    "--max-accuracy-drop": "Default: no gate",
    "--min-snr": "Default: no gate",
    "--refine": "[default: auto]",
    "--no-refine": "Default: tune them",
    "--refine-mode": "[default: auto]",
    "--refine-minutes": "Default: 10",
    "--refine-loss": "Default: detected",
    "--offload": "Default: in memory",
    "--onnx": "Default: only the directory",
    "--sequence": "default: 256",
    "--stride": "Default: they do not overlap",
    "--metric": "Default: top-1",
    "--engine": "Default: TensorRT, else torch.sparse on a CUDA GPU, else nothing",
    "--precision": "Default: fp16 where TensorRT builds",
    "--min-speedup": "Default: no gate",
    "--min-sparse-layers": "Default: no gate",
    "--max-metric-change": "Default: no gate",
    "--budget": "Default: none",
    "--sensitivity": "Default: run",
    "--strict": "Default: at the figure",
    "--baseline": "Default: no gate",
    "--workspace-mb": "Default: all there is",
    "--timing-cache": "Default: none",
    "--format": "[default: text]",
    "--quiet": "Default: bars on a terminal",
    "-q": "Show no progress",
    "--plan": "Default: run",
    "--force": "Default: refuse",
}


def heavy_imports(*arguments: str) -> set[str]:
    """Heavy packages that `python -X importtime ARGUMENTS` imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    lines = re.findall(r"^import time:.*\|\s*([\w.]+)$", done.stderr, re.MULTILINE)
    assert len(lines) > 20, "importtime lists nothing"
    return {name.partition(".")[0] for name in lines} & HEAVY


def help_of(*command_line: str, folder: Path) -> str:
    """The help text without its frame and line breaks."""
    outcome = command(*command_line, "--help", folder=folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.stdout).split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    assert heavy_imports("-m", "prox24_export", option) == set()


def test_importing_the_package_and_its_settings_imports_nothing_heavy() -> None:
    assert heavy_imports("-c", "import prox24_export; prox24_export.Settings()") == set()


def test_the_check_of_heavy_imports_can_fail() -> None:
    assert heavy_imports("-c", "import prox24_export; prox24_export.export") == HEAVY


@pytest.mark.parametrize(("option", "default"), OPTIONS.items())
def test_help_shows_the_option_with_its_default(option: str, default: str, shown: str) -> None:
    described = shown.partition("Parameters")[2].partition(f" {option} ")[2]
    upto_next = re.split(r" --[a-z-]+ (?:-[oq] )?[A-Z]+", described, maxsplit=1)[0]
    assert default in upto_next


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    return help_of(folder=tmp_path_factory.mktemp("help"))


def test_help_lists_no_option_that_the_table_above_lacks(shown: str) -> None:
    listed = re.findall(r" (--[a-z-]+) (?:-[oq] )?(?:[A-Z]{3}|Replace|Keep|Also|Only|Gates|Show|Leave)", shown)
    assert set(listed) == OPTIONS.keys() - {"-o", "-q"}


def test_help_explains_every_exit_code_and_inspect(shown: str, tmp_path: Path) -> None:
    codes = re.findall(r"(\d+) (?:exported|usage|an engine|the run|interrupted)", shown)
    assert codes == ["0", "1", "2", "3", "4", "130"]
    assert "inspect [OPTIONS] MODEL" in shown
    for option in ("--include", "--exclude", "--format"):
        assert option in help_of("inspect", folder=tmp_path)


def test_version_prints_the_version_alone(tmp_path: Path) -> None:
    from importlib.metadata import version  # noqa: PLC0415 (the test's own question)

    outcome = command("--version", folder=tmp_path)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, version("prox24-export") + "\n", "")


def test_the_public_names_are_there_and_others_are_not() -> None:
    import prox24_export  # noqa: PLC0415 (the test's own question)

    assert all(callable(getattr(prox24_export, name)) for name in prox24_export.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = prox24_export.prune


def test_export_and_inspect_work_from_python_with_an_iterable_of_feeds(tmp_path: Path) -> None:
    from prox24_export import Settings, export, inspect  # noqa: PLC0415 (the test's own question)

    path = network(tmp_path)
    rows = normal(20, 8)
    report = export(path, ({"x": row[None]} for row in rows), tmp_path / "out", settings=Settings(seed=3))
    assert [layer.state for layer in report.layers] == ["sparse", "sparse"]
    assert report.settings["seed"] == 3
    assert report.data is not None
    assert (report.data.calibration, report.data.fit, report.data.choice, report.data.report) == (
        *("feed dictionaries", 13, 3, 4),
    )
    assert (tmp_path / "out" / "report.json").is_file()
    assert [layer.k for layer in inspect(path)] == [8, 16]
    assert [layer.k for layer in inspect(tmp_path / "out" / "model.onnx")] == [8, 16]
    assert np.isfinite(report.accuracy.outputs[0].snr_db or np.nan) if report.accuracy else False


def imported_tensorrt(folder: Path, *arguments: str) -> bool:
    """Whether a command looks for TensorRT: a module of its name leaves a mark when it is imported."""
    mark = folder / "imported"
    (folder / "fake").mkdir(exist_ok=True)
    (folder / "fake" / "tensorrt.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('no library')\n")
    done = command(*arguments, folder=folder, env={**os.environ, "PYTHONPATH": str(folder / "fake")})
    assert done.code == 0, done.stderr
    return mark.exists()


def test_tensorrt_is_looked_for_only_where_an_engine_may_be_built(tmp_path: Path) -> None:
    network(tmp_path)
    for arguments in (("--help",), ("inspect", "net.onnx"), ("net.onnx", "--engine", "none", "--force")):
        assert not imported_tensorrt(tmp_path, *arguments), arguments
    assert imported_tensorrt(tmp_path, "net.onnx", "--force"), "with auto it is, so that the check can fail"
