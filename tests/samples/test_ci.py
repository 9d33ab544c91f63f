"""The CI samples run as written: every shell line, in a copy of the repository, through the command they install.

They install into an environment of its own, offline: what the package needs is taken from the environment of the tests.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FEW = 36  # samples
NEEDED = ("prox24_export", "passes", "samples", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")
MAKE = ("make", "-f", "samples/ci/Makefile", "sparse")
CONDITIONS = {None: True, "${{ !cancelled() }}": True, "${{ github.ref == 'refs/heads/main' }}": True}


@pytest.fixture(scope="module")
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
    """Leaves as many as make a run short; what the steps do with the command is tested here, not what it reaches."""
    with np.load(path) as held:
        few = {name: held[name][:FEW] for name in held.files}
    np.savez(path, **few)


def environment(scripts: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{scripts}{os.pathsep}{kept['PATH']}"
    return kept | offline | {"PATH": path, **more}


def shell(lines: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As a runner starts them: bash that ends at the first line that fails."""
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", lines, "step"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def install(scripts: Path, folder: Path) -> None:
    done = shell("pip install -q --no-deps .", folder, environment(scripts))
    assert done.returncode == 0, done.stderr


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / "samples" / "ci" / name).read_text("utf-8"))


def report(folder: Path) -> Any:
    return json.loads((folder / "sparse" / "report.json").read_text("utf-8"))


def expect_a_finished_run(folder: Path) -> None:
    found = report(folder)
    assert {gate["name"] for gate in found["gates"]} >= {"max-accuracy-drop", "min-sparse-layers"}
    assert all(gate["passed"] for gate in found["gates"])
    assert any(layer["state"] == "sparse" for layer in found["layers"])


def test_the_github_workflow_step_by_step(scripts: Path, checkout: Path, tmp_path: Path) -> None:
    workflow = parsed("github.yml")
    (job,) = workflow["jobs"].values()
    summary = tmp_path / "summary.md"
    env = environment(scripts, GITHUB_STEP_SUMMARY=str(summary))
    ran = []
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "run" in step and CONDITIONS[step.get("if")]:
            done = shell(step["run"], checkout, env)
            assert done.returncode == 0, (step["name"], done.stdout, done.stderr)
            ran.append(step["name"])
    assert ran[:2] == ["Install", "Prune, verify, measure"]
    expect_a_finished_run(checkout)
    assert summary.read_text("utf-8") == (checkout / "sparse" / "summary.md").read_text("utf-8")
    assert report(checkout)["settings"]["baseline"] is None
    baseline = (checkout / "baseline" / "report.json").read_text("utf-8")
    shutil.rmtree(checkout / "sparse")  # the next push, where the cache has brought the baseline
    (prune,) = [step["run"] for step in job["steps"] if step.get("name") == "Prune, verify, measure"]
    done = shell(prune, checkout, env)
    assert done.returncode == 0, done.stderr
    expect_a_finished_run(checkout)
    names = {gate["name"] for gate in report(checkout)["gates"]}
    assert names >= {"baseline top1", "baseline top1, bad end", "baseline sparse layers"}
    assert json.loads(baseline)["output"]["sha256"] == report(checkout)["output"]["sha256"]


def test_the_workflow_uses_the_command_that_it_installs(scripts: Path, checkout: Path) -> None:
    install(scripts, checkout)
    done = shell("command -v prox24-export", checkout, environment(scripts))
    assert Path(done.stdout.strip()).parent == scripts
    where = shell('python -c "import prox24_export as p; print(p.__file__)"', checkout.parent, environment(scripts))
    assert where.stdout.startswith(str(scripts.parent)), where


def test_the_gitlab_job(scripts: Path, checkout: Path) -> None:
    job = parsed("gitlab.yml")["sparse"]
    for line in job["script"]:
        done = shell(line, checkout, environment(scripts))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    expect_a_finished_run(checkout)
    for path in job["artifacts"]["paths"]:
        assert (checkout / path).exists()
    assert Path(job["artifacts"]["reports"]["junit"]).parent == Path("sparse")


def test_a_step_whose_gate_fails_ends_the_job(scripts: Path, checkout: Path) -> None:
    install(scripts, checkout)
    line = parsed("gitlab.yml")["sparse"]["script"][1]
    done = shell(line.replace("--max-accuracy-drop 3", "--min-snr 200"), checkout, environment(scripts))
    assert done.returncode == 1, done


def test_the_makefile_runs_once_until_something_changes_and_again_after_a_failure(
    scripts: Path, checkout: Path
) -> None:
    install(scripts, checkout)

    def make(*more: str) -> subprocess.CompletedProcess[str]:
        env = environment(scripts)
        return subprocess.run([*MAKE, *more], cwd=checkout, env=env, capture_output=True, text=True, check=False)

    failed = make("GATES=--min-snr 200")
    assert failed.returncode != 0
    assert (checkout / "sparse" / "report.json").is_file()
    first = make()
    assert first.returncode == 0, first.stderr
    expect_a_finished_run(checkout)
    again = make()
    assert again.returncode == 0
    assert "prox24-export" not in again.stdout
    (checkout / "prox24.toml").write_text("", "utf-8")
    os.utime(checkout / "prox24.toml", (2**32, 2**32))
    assert "prox24-export" in make("--dry-run").stdout


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml", "Makefile"])
def test_the_samples_are_of_the_shipped_model_and_name_no_gpu(name: str) -> None:
    text = (ROOT / "samples" / "ci" / name).read_text("utf-8")
    for file in ("digits_vit.onnx", "calibration.npz", "evaluation.npz"):
        assert f"samples/digits/{file}" in text
        assert (ROOT / "samples" / "digits" / file).is_file()
    assert "--engine none" in text
