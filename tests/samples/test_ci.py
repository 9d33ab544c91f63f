"""The CI samples run as written: every shell line, in a copy of the repository, through the command they install.

They install into an environment of its own, offline: what the package needs is taken from the environment of the tests.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.samples.runner import environment, shell

ROOT = Path(__file__).resolve().parents[2]
MAKE = ("make", "-f", "samples/ci/Makefile", "sparse")
CONDITIONS = {None: True, "${{ !cancelled() }}": True, "${{ github.ref == 'refs/heads/main' }}": True}


@pytest.fixture
def installed(scripts: Path, checkout: Path) -> Path:
    """The environment with the command installed, by whichever test comes first; its sources are those of all."""
    if not (scripts / "prox24-export").is_file():
        done = shell("pip install -q --no-deps .", checkout, environment(scripts))
        assert done.returncode == 0, done.stderr
    return scripts


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


def test_the_workflow_uses_the_command_that_it_installs(installed: Path, checkout: Path) -> None:
    done = shell("command -v prox24-export", checkout, environment(installed))
    assert Path(done.stdout.strip()).parent == installed
    where = shell('python -c "import prox24_export as p; print(p.__file__)"', checkout.parent, environment(installed))
    assert where.stdout.startswith(str(installed.parent)), where


def test_the_gitlab_job(scripts: Path, checkout: Path) -> None:
    job = parsed("gitlab.yml")["sparse"]
    for line in job["script"]:
        done = shell(line, checkout, environment(scripts))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    expect_a_finished_run(checkout)
    for path in job["artifacts"]["paths"]:
        assert (checkout / path).exists()
    assert Path(job["artifacts"]["reports"]["junit"]).parent == Path("sparse")


def test_a_step_whose_gate_fails_ends_the_job(installed: Path, checkout: Path) -> None:
    line = parsed("gitlab.yml")["sparse"]["script"][1]
    done = shell(line.replace("--max-accuracy-drop 3", "--min-snr 200"), checkout, environment(installed))
    assert done.returncode == 1, done


def test_the_makefile_runs_once_until_something_changes_and_again_after_a_failure(
    installed: Path, checkout: Path
) -> None:
    def make(*more: str) -> subprocess.CompletedProcess[str]:
        env = environment(installed)
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
