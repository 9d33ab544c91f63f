"""`action.yml` and `Dockerfile`: every step runs as it is written, in a fresh environment and offline."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.samples.runner import environment, shell

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "samples/digits"
REFERENCE = re.compile(r"\$\{\{ (?P<name>[a-z_.]+) \}\}")


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return found


def run_steps(scripts: Path, folder: Path, **inputs: str) -> tuple[int, str, dict[str, str]]:
    """Runs the steps as GitHub does: inputs by `env`, outputs by a file; returns code, stdout and outputs."""
    given = {name: str(entry.get("default", "")) for name, entry in action()["inputs"].items()} | inputs
    names = {f"inputs.{name}": value for name, value in given.items()} | {"github.action_path": str(folder)}
    output = folder / "outputs"
    output.touch()
    told = ""
    for step in action()["runs"]["steps"]:
        assert step["shell"] == "bash"
        more = {name: REFERENCE.sub(lambda found: names[found["name"]], text) for name, text in step["env"].items()}
        assert "${{" not in step["run"]  # what an input holds is never part of a script
        lines = step["run"].replace("pip install -c", "pip install -q --no-deps -c")
        done = shell(lines, folder, environment(scripts, GITHUB_OUTPUT=str(output), **more))
        told += done.stdout
        if done.returncode:
            return done.returncode, told + done.stderr, {}
    outputs = dict(line.split("=", 1) for line in output.read_text(encoding="utf-8").splitlines())
    return 0, told, outputs


def test_the_action_prunes_the_sample_and_names_its_report(scripts: Path, checkout: Path) -> None:
    code, told, outputs = run_steps(
        scripts,
        checkout,
        model=f"{SAMPLE}/digits_vit.onnx",
        calibration=f"{SAMPLE}/calibration.npz",
        evaluation=f"{SAMPLE}/evaluation.npz",
        out="sparse.onnx",
        options="--samples 64 --no-refine --permute no --engine none --max-accuracy-drop 5",
    )
    assert code == 0, told
    assert "::notice title=prox24-export::Accuracy " in told
    report = json.loads((checkout / outputs["report"]).read_text(encoding="utf-8"))
    assert sum(layer["state"] == "sparse" for layer in report["layers"]) == 17
    assert [gate["name"] for gate in report["gates"]] == ["max-accuracy-drop"]
    (value,) = (output["value"] for output in action()["outputs"].values())
    assert value == "${{ steps.prune.outputs.report }}"


def test_an_input_is_no_script_and_a_refusal_fails_the_step(scripts: Path, checkout: Path) -> None:
    code, told, _ = run_steps(scripts, checkout, model='$(touch stolen)"; touch stolen; ".onnx')
    assert code == 2
    assert "no such model" in told or "not" in told
    assert not (checkout / "stolen").exists()


def test_every_line_of_the_options_and_the_extras_reach_the_commands(tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("pip", "prox24-export"):
        (commands / name).write_text(f"#!/bin/bash\nprintf '{name} %s\\n' \"$@\"\n", encoding="utf-8")
        (commands / name).chmod(0o755)
    options = "--max-accuracy-drop 1\n--strict\n\n  --exclude head*\n"
    code, told, _ = run_steps(commands, tmp_path, model="a model.onnx", options=options)
    assert code == 0, told
    given = [line.removeprefix("prox24-export ") for line in told.splitlines() if line.startswith("prox24-export ")]
    last = given.index("--format") + 2
    assert given[0] == "a model.onnx"
    assert given[last:] == ["--max-accuracy-drop", "1", "--strict", "--exclude", "head*"]
    assert f"pip {tmp_path}[transformers]" in told.splitlines()
    _, told, _ = run_steps(commands, tmp_path, model="a model.onnx", extras="")
    assert f"pip {tmp_path}" in told.splitlines()
    assert told.splitlines()[-1] == "prox24-export github"


def instructions(target: str) -> list[tuple[str, str]]:
    """The instructions of a target of the Dockerfile and of those that it is built from, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line.strip()]
    stages: dict[str, list[tuple[str, str]]] = {}
    for name, rest in lines:
        if name == "FROM":
            base, _, label = rest.partition(" AS ")
            stages[label] = list(stages.get(base, []))
        elif stages:
            stages[list(stages)[-1]].append((name, rest))
    return stages[target]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_copies_what_is_there_and_starts_the_command(target: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    found = instructions(target)
    copied = [name for kind, rest in found if kind == "COPY" for name in rest.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    assert ("ENTRYPOINT", '["prox24-export"]') in found
    runs = [rest for kind, rest in found if kind == "RUN" and "apt-get" not in rest]
    extras = set(re.findall(r"[a-z]+", runs[-1].partition("[")[2]))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras
    assert all(re.search(rf"^{extra} = ", text, re.MULTILINE) for extra in extras)


def test_the_steps_of_the_container_install_a_command_that_runs(scripts: Path, checkout: Path, tmp_path: Path) -> None:
    """There is no registry here, so that the steps run in a fresh environment, with what the tests have installed."""
    root = tmp_path / "source"
    root.mkdir()
    for kind, rest in instructions("cpu"):
        if kind == "COPY":
            *names, place = rest.split()
            for name in names:
                source, to = checkout / name, root / (place if place != "./" else name)
                shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to)
        elif kind == "RUN":
            lines = rest.replace("pip install --no-cache-dir", "pip install -q --no-deps").replace(" torch", "")
            if " ." in lines or '"."' in lines or '".[' in lines:  # the other line installs torch alone
                done = shell(lines, root, environment(scripts))
                assert done.returncode == 0, done.stderr
    done = shell("prox24-export --version", tmp_path, environment(scripts))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
