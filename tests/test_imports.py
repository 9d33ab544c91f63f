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

HEAVY = {"torch", "onnx", "onnxruntime", "numba", "numpy"}


def heavy_imports(*arguments: str) -> set[str]:
    """Heavy packages that `python -X importtime ARGUMENTS` imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    lines = re.findall(r"^import time:.*\|\s*([\w.]+)$", done.stderr, re.MULTILINE)
    assert len(lines) > 20, "importtime lists nothing"
    return {name.partition(".")[0] for name in lines} & HEAVY


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    assert heavy_imports("-m", "prox24_export", option) == set()


def test_importing_the_package_and_its_settings_imports_nothing_heavy() -> None:
    assert heavy_imports("-c", "from prox24_export import InputError, Settings; Settings()") == set()


def test_the_check_of_heavy_imports_can_fail() -> None:
    assert heavy_imports("-c", "import prox24_export; prox24_export.export") == HEAVY


def test_version_prints_the_version_alone(tmp_path: Path) -> None:
    from importlib.metadata import version  # noqa: PLC0415 (the test's own question)

    outcome = command("--version", folder=tmp_path)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, version("prox24-export") + "\n", "")


def test_the_public_names_are_there_and_others_are_not() -> None:
    import prox24_export  # noqa: PLC0415 (the test's own question)

    public = {name: getattr(prox24_export, name) for name in prox24_export.__all__}
    assert isinstance(public.pop("__version__"), str)
    assert all(callable(value) for value in public.values())
    assert all(value.__name__ == name for name, value in public.items())
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
    path = os.pathsep.join(filter(None, (str(folder / "fake"), os.environ.get("PYTHONPATH"))))
    done = command(*arguments, folder=folder, env={**os.environ, "PYTHONPATH": path})
    assert done.code == 0, done.stderr
    return mark.exists()


def test_tensorrt_is_looked_for_only_where_an_engine_may_be_built(tmp_path: Path) -> None:
    network(tmp_path)
    for arguments in (("--help",), ("inspect", "net.onnx"), ("net.onnx", "--engine", "none", "--force")):
        assert not imported_tensorrt(tmp_path, *arguments), arguments
    assert imported_tensorrt(tmp_path, "net.onnx", "--force"), "with auto it is, so that the check can fail"
