"""An environment and a checkout of their own, in which samples and actions run as they are written."""

import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = 36  # samples
NEEDED = (
    *("prox24_export", "passes", "samples", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"),
    *("action.yml", "Dockerfile", ".dockerignore"),
)


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's folder of commands; other packages are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    # Python 3.11 brings a setuptools that is too old to build the package, and that would hide the tests' own
    uninstall = [str(folder / "bin" / "python"), "-m", "pip", "uninstall", "-q", "-y", "setuptools"]
    subprocess.run(uninstall, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests_environment.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder / "bin"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, symlinks=True, ignore=skipped)
        else:
            shutil.copy(source, folder / name)
    _keep_few_samples(folder / "samples" / "digits" / "calibration.npz")
    return folder


def _keep_few_samples(path: Path) -> None:
    """Leaves as many as make a run short: what the steps do with the command is tested, not what it reaches."""
    with np.load(path) as held:
        few = {name: held[name][:FEW] for name in held.files}
    np.savez(path, **few)
