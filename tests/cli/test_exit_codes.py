"""A run that is done: its exit code, what it prints, and what stands where afterwards."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.command import DONE, PREFIX, SCRIPT, command, in_process, network, samples, snapshot
from tests.graphs import is_two_four, model, normal, save


def planted(folder: Path) -> Path:
    """One layer, K = 4, that is always right before pruning and in half of the cases after it.

    Column 0 carries class 0 for all four unit vectors; 2:4 keeps two of its four entries.
    """
    weight = np.array([[10, 9, 0.1], [10, 9, 0.1], [10, 0.1, 9], [10, 0.1, 9]], np.float32)
    save(model("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": weight}), folder, "net.onnx")
    np.savez(folder / "data.npz", x=np.eye(4, dtype=np.float32).repeat(4, 0), labels=np.zeros(16, np.int64))
    return folder / "net.onnx"


def test_a_run_that_succeeds_exits_0_prints_the_result_on_stdout_and_nothing_on_stderr(tmp_path: Path) -> None:
    network(tmp_path)
    samples(tmp_path)
    before = snapshot(tmp_path)
    outcome = command("net.onnx", "--calibration", "data.npz", folder=tmp_path)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "; 2 of 2 prunable layers are 2:4 sparse" in outcome.stdout.splitlines()[0]
    assert "net-2to4/model.onnx" in outcome.stdout
    written = tmp_path / "net-2to4"
    assert {path.name for path in written.iterdir()} == {
        *("model.onnx", "report.json", "report.html", "summary.md", "junit.xml", "DEPLOY.md")
    }
    assert before.items() <= snapshot(tmp_path).items()
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "data.npz", "net-2to4"}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(written / "model.onnx").graph.initializer}
    assert all(is_two_four(weight.T) for weight in weights.values())


def test_nothing_eligible_exits_0_with_the_reasons_and_a_byte_copy(tmp_path: Path, capfd: Any) -> None:
    proto = model("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(6, 4)})
    path = save(proto, tmp_path, "net.onnx")
    outcome = in_process("net.onnx", folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("nothing eligible")
    assert "1 × the reduction dimension is not a multiple of 4" in outcome.stdout
    assert (tmp_path / "net-2to4" / "model.onnx").read_bytes() == path.read_bytes()


def test_a_planted_accuracy_gate_fails_with_exit_1_and_the_model_is_there(tmp_path: Path, capfd: Any) -> None:
    planted(tmp_path)
    arguments = ("net.onnx", "--calibration", "data.npz", "--evaluation", "data.npz", "--max-accuracy-drop", "0")
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert (outcome.code, outcome.stderr) == (1, "")
    assert "top1: 100.00 % dense, 50.00 % sparse on 16 samples" in outcome.stdout
    assert "gate max-accuracy-drop: FAILED (50.00 points, limit 0 points)" in outcome.stdout
    report = json.loads((tmp_path / "net-2to4" / "report.json").read_text("utf-8"))
    assert [(gate["name"], gate["passed"]) for gate in report["gates"]] == [("max-accuracy-drop", False)]
    assert (tmp_path / "net-2to4" / "model.onnx").is_file()


@pytest.mark.parametrize(("limit", "code"), [("100", 1), ("-100", 0)])
def test_the_signal_to_noise_gate_decides_the_exit_code(limit: str, code: int, tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "--min-snr", limit, folder=tmp_path, capture=capfd)
    assert outcome.code == code
    assert f"gate min-snr: {'FAILED' if code else 'passed'}" in outcome.stdout


def test_a_reader_that_went_away_does_not_hide_a_failed_gate(tmp_path: Path) -> None:
    planted(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ("net.onnx", "--evaluation", "data.npz", "--calibration", "data.npz", "--max-accuracy-drop", "0")
    done = subprocess.run(
        [SCRIPT, *arguments], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, DONE.sub("", done.stderr)) == (1, "")


def test_stdout_that_knows_only_ascii_gets_the_result_all_the_same(tmp_path: Path) -> None:
    network(tmp_path, n=5)
    outcome = command("inspect", "net.onnx", folder=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "N % 8 ? 0" in outcome.stdout


def test_a_result_that_cannot_be_printed_is_said_and_exits_4(tmp_path: Path) -> None:
    network(tmp_path)
    with Path("/dev/full").open("w") as full:
        arguments = [SCRIPT, "inspect", "net.onnx"]
        done = subprocess.run(arguments, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    said = DONE.sub("", done.stderr)
    assert said.startswith(f"{PREFIX}cannot print the result")
    assert said.count("\n") == 1


def test_the_same_command_twice_gives_the_same_bytes_and_the_seed_is_recorded(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    samples(tmp_path)
    written, seeds = [], []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ("net.onnx", "--calibration", "data.npz", "--seed", seed, "-o", out)
        assert in_process(*arguments, folder=tmp_path, capture=capfd).code == 0
        written.append((tmp_path / out / "model.onnx").read_bytes())
        seeds.append(json.loads((tmp_path / out / "report.json").read_text("utf-8"))["settings"]["seed"])
    assert written[0] == written[1]
    assert seeds == [0, 0, 1]


def test_a_process_of_its_own_writes_the_same_bytes(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    assert in_process("net.onnx", "-o", "a", folder=tmp_path, capture=capfd).code == 0
    assert command("net.onnx", "-o", "b", folder=tmp_path).code == 0
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
