"""Options of the command, and what they change."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from prox24_export.solver import compile_cache
from prox24_export.solver.compile_cache import cache_compiled
from tests.command import command, expect_refusal, in_process, network, samples, snapshot


def test_options_may_stand_before_the_model_and_be_repeated(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    arguments = ("--include", "w0", "--include", "nothing", "--exclude", "w9", "net.onnx", "--min-snr", "-50")
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 0
    assert "; 1 of 2 prunable layers are 2:4 sparse (128 weights" in outcome.stdout.splitlines()[0]
    settings = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["settings"]
    assert (settings["include"], settings["exclude"]) == (["w0", "nothing"], ["w9"])


def test_random_inputs_are_warned_of_in_the_terminal_and_in_every_report(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    outcome = in_process("net.onnx", "--shapes", "x:3x8", folder=tmp_path, capture=capfd)
    folder = tmp_path / "net-2to4"
    said = "the masks are not based on data"
    assert said in outcome.stdout
    for name in ("report.json", "report.html", "summary.md"):
        assert said in (folder / name).read_text("utf-8"), name


def test_a_finished_run_is_replaced_only_with_force(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--method", "magnitude")
    assert in_process(*arguments, folder=tmp_path, capture=capfd).code == 0
    before = snapshot(tmp_path)
    again = in_process(*arguments, folder=tmp_path, capture=capfd)
    expect_refusal(again, 2, before, tmp_path)
    assert "net-2to4 holds a finished run. Replace it with --force" in again.stderr
    forced = in_process(*arguments, "--seed", "1", "--force", folder=tmp_path, capture=capfd)
    assert (forced.code, forced.stderr) == (0, "")
    assert snapshot(tmp_path).keys() == before.keys()
    assert json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["settings"]["seed"] == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_so_few_samples_that_none_is_held_back_still_work(count: int, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--samples", count)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "warning: Too few calibration samples to hold any back" in outcome.stdout
    data = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))["data"]
    assert data["fit"] + data["choice"] + data["report"] == count


def test_the_plan_and_the_sensitivity_are_asked_for_one_at_a_time(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz")
    outcome = in_process(*arguments, "--plan", "--sensitivity", folder=tmp_path, capture=capfd)
    assert (outcome.code, "Leave one of them out" in outcome.stderr) == (2, True)
    alone = in_process(*arguments, "--sensitivity", "--shapes", "x:4x8", folder=tmp_path, capture=capfd)
    assert alone.code == 0, alone.stderr
    assert "loss at the outputs" in alone.stdout
    assert [line.split()[0] for line in alone.stdout.splitlines()[2:]] == ["MatMul:a", "MatMul:y"]
    assert not (tmp_path / "net-2to4").exists()


def test_a_budget_leaves_layers_dense_and_says_which(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path, count=200, labels=np.arange(200) % 4)
    arguments = ("net.onnx", "--calibration", "data.npz", "--budget", "--max-accuracy-drop", "0")
    outcome = in_process(*arguments, "--min-sparse-layers", "1", folder=tmp_path, capture=capfd)
    report = json.loads((tmp_path / "net-2to4" / "report.json").read_text())
    dense = set(report["budget"]["dense"])
    assert {layer["name"] for layer in report["layers"] if layer["state"] == "dense"} == dense
    assert report["data"]["report"] + report["budget"]["samples"] == 40  # a fifth of the samples, in two parts
    assert "budget: " in outcome.stdout
    gates = {gate["name"]: gate["passed"] for gate in report["gates"]}
    assert gates["min-sparse-layers"] == (len(dense) < 2)
    assert outcome.code == int(not all(gates.values()))


def test_inspect_writes_no_file_and_lists_every_layer(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path, n=5)
    before = snapshot(tmp_path)
    table = in_process("inspect", "net.onnx", "--exclude", "w0", folder=tmp_path, capture=capfd)
    listed = in_process("inspect", "net.onnx", "--exclude", "w0", "--format", "json", folder=tmp_path, capture=capfd)
    assert (table.code, listed.code) == (0, 0)
    assert table.stdout.splitlines()[-2] == "1 of 2 eligible, 38.5 % of the parameters"
    rows = json.loads(listed.stdout)
    assert [(row["weight"], row["state"]) for row in rows] == [("w0", "dense"), ("w1", "sparse")]
    assert rows[0]["reason"] == "excluded by the user (--exclude w0)"
    assert rows[1]["notes"] == ["N % 8 ≠ 0: an fp16 sparse kernel is unlikely"]
    assert snapshot(tmp_path) == before


def test_inspect_ends_with_whether_it_is_worth_it(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    plain = in_process("inspect", "net.onnx", folder=tmp_path, capture=capfd)
    assert plain.stdout.splitlines()[-1].startswith("is it worth it? name the GPU")
    told = in_process("inspect", "net.onnx", "--gpu", "l4", "--batch", "7", folder=tmp_path, capture=capfd)
    assert "2:4 can gain on NVIDIA L4, with inputs x [7, 8]:" in told.stdout
    assert "Is it worth it? No: 0 of 2 layers have a shape that may gain" in told.stdout
    listed = in_process("inspect", "net.onnx", "--gpu", "l4", "--format", "json", folder=tmp_path, capture=capfd)
    gain = json.loads(listed.stdout)["gain"]
    assert [(layer["k"], layer["tokens"]) for layer in gain["layers"]] == [(8, 1), (16, 1)]
    refused = in_process("inspect", "net.onnx", "--gpu", "l4", "--batch", "0", folder=tmp_path, capture=capfd)
    assert (refused.code, refused.stdout) == (2, "")
    assert refused.stderr == "prox24-export: --batch and --sequence must be 1 or more. Got 0.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_names_every_command_and_is_sound(shell: str, tmp_path: Path, capfd: Any) -> None:
    told = in_process("completion", shell, folder=tmp_path, capture=capfd)
    assert (told.code, told.stderr) == (0, "")
    for word in ("inspect", "bench", "report", "calibration", "max-accuracy-drop", "gpu"):
        assert word in told.stdout
    program = shutil.which(shell)
    if program is not None:
        (tmp_path / "script").write_text(told.stdout, encoding="utf-8")
        subprocess.run([program, "-n", tmp_path / "script"], check=True)


def test_bash_completes_an_option(tmp_path: Path, capfd: Any) -> None:
    told = in_process("completion", "bash", folder=tmp_path, capture=capfd)
    (tmp_path / "script").write_text(told.stdout, encoding="utf-8")
    ask = (
        'source ./script; COMP_WORDS=(prox24-export inspect --g); COMP_CWORD=2; COMP_LINE="prox24-export inspect --g"; '
        'COMP_POINT=${#COMP_LINE}; $(complete -p prox24-export | grep -o "[-]F [^ ]*" | cut -c4-) prox24-export --g '
        'inspect; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    shown = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "--gpu" in shown.stdout.split(), shown.stderr


def half(number: float) -> float:
    return number / 2


def test_the_cache_is_named_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compile_cache.CONFIG, "CACHE_DIR", "")
    network(tmp_path)
    assert cache_compiled(numba.njit(cache=True))(half)(3.0) == 1.5  # as a kernel is compiled, and much sooner
    folder = tmp_path / "caches" / "prox24-export"
    kept = in_process("cache", folder=tmp_path, capture=capfd)
    assert re.fullmatch(rf"{re.escape(str(folder))}: \d+\.\d MB\n", kept.stdout)
    assert any(folder.rglob("*.nbi"))
    cleared = in_process("cache", "--clear", folder=tmp_path, capture=capfd)
    assert cleared.stdout.endswith(" MB, removed\n")
    assert not folder.exists()
    own = command("cache", "--clear", folder=tmp_path, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)})
    assert own.stdout.startswith(f"{tmp_path}: ")
    assert "removed" not in own.stdout
    assert (tmp_path / "net.onnx").is_file()
