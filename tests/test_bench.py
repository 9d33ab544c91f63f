"""`bench`: two models timed over batch sizes, with ONNX Runtime here; and the exit codes of what cannot be had."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.engines import onnxruntime
from prox24_export.engines.timing.latency import Procedure
from tests.command import expect_refusal, in_process, network, samples, snapshot
from tests.graphs import model, normal, save
from tests.latency import time_onnxruntime

QUICK = Procedure(warm_up_ms=0.1, duration_ms=0.1, least_rounds=4, turn_ms=0.1, resamples=50)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    time_onnxruntime(monkeypatch, QUICK)


def pair(folder: Path, capfd: Any) -> None:
    """`net.onnx` and `net-2to4/model.onnx`."""
    network(folder)
    samples(folder)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "--engine", "none", folder=folder, capture=capfd)
    assert outcome.code == 0, outcome.stderr


def test_two_files_are_timed_over_batch_sizes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pair(tmp_path, capfd)
    outcome = in_process(
        *("bench", "net.onnx", "net-2to4/model.onnx", "--batch", "1", "--batch", "3", "-o", "times"),
        folder=tmp_path,
        capture=capfd,
    )
    assert outcome.code == 0, outcome.stderr
    assert "ONNX Runtime, CPU, batch 3:" in outcome.stdout
    assert "2 of 2 linear layers of net-2to4/model.onnx are 2:4 sparse" in outcome.stdout
    assert "no sparse speed-up exists there" in outcome.stdout
    report = json.loads((tmp_path / "times" / "report.json").read_text())
    points = report["engine"]["latency"]
    assert [(point["batch"], point["shapes"]) for point in points] == [(1, {"x": [1, 8]}), (3, {"x": [3, 8]})]
    assert not any("outputs differ" in reason for point in points for reason in point["reasons"])
    assert report["estimate"]["sparse_share"] == 1
    assert {path.name for path in (tmp_path / "times").iterdir()} >= {"report.html", "summary.md", "junit.xml"}


def test_a_layer_that_is_not_two_four_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network(tmp_path)
    outcome = in_process("bench", "net.onnx", "net.onnx", "--batch", "2", folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome.stderr
    assert "0 of 2 linear layers of net.onnx are 2:4 sparse" in outcome.stdout
    report = json.loads((tmp_path / "net-bench" / "report.json").read_text())
    assert [point["batch"] for point in report["engine"]["latency"]] == [2]  # timed all the same
    assert {layer["reason"] for layer in report["layers"]} == {"its weight is not 2:4 in this file"}


def test_samples_of_the_user_are_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(tmp_path, capfd)
    seen = []
    timed = onnxruntime.OnnxRuntimeTimed.__init__

    def noted(self: Any, name: str, graph: Any, feeds: Any) -> None:
        seen.append(feeds["x"])
        timed(self, name, graph, feeds)

    monkeypatch.setattr(onnxruntime.OnnxRuntimeTimed, "__init__", noted)
    arguments = ("bench", "net.onnx", "net-2to4/model.onnx", "--inputs", "data.npz", "--batch", "25", "-o", "times")
    assert in_process(*arguments, folder=tmp_path, capture=capfd).code == 0
    data = np.load(tmp_path / "data.npz")["x"]
    assert np.array_equal(seen[0], np.concatenate([data, data[:5]]))  # 20 samples, taken again


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("net.onnx", "nothing.onnx"), 2, "no such model: nothing.onnx"),
        (("net.onnx", "a.engine"), 2, "must both be ONNX files, or both TensorRT engines"),
        (("a.engine", "a.engine"), 2, "engines are timed on --inputs FILE.npz"),
        (("a.engine", "a.engine", "--inputs", "data.npz"), 3, "--engine tensorrt cannot be used here"),
        (("net.onnx", "net.onnx", "--engine", "tensorrt"), 3, "tensorrt is not installed"),
        (("net.onnx", "net.onnx", "--min-speedup", "1.1"), 3, "--min-speedup needs a speed-up"),
        (("net.onnx", "net.onnx", "--batch", "0"), 2, "--batch must be 1 or more"),
        (("fixed.onnx", "fixed.onnx", "--batch", "2"), 2, "the model's first axis is fixed"),
        (("net.onnx", "net.onnx", "--engine", "none"), 2, "--engine none times nothing"),
        (("net.onnx", "net.onnx", "--shapes", "x:4x8", "--batch", "2"), 2, "Leave --batch and --inputs out"),
        (("net.onnx", "net.onnx", "--shapes", "x:4x8", "--inputs", "data.npz"), 2, "Leave --batch and --inputs out"),
        (("net.onnx", "other.onnx"), 2, "Expected two models with the same inputs"),
        (("a.engine", "a.engine", "--inputs", "missing.npz"), 2, "no such --inputs: missing.npz"),
        (("a.engine", "a.engine", "--inputs", "junk.npz"), 2, "--inputs junk.npz cannot be read"),
    ],
)
def test_what_cannot_be_timed_is_refused_and_nothing_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    network(tmp_path, batch=4).rename(tmp_path / "fixed.onnx")
    network(tmp_path)
    samples(tmp_path)
    (tmp_path / "a.engine").write_bytes(b"plan")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    proto = model("g (float[N,8] z) => (float[N,4] y) { y = MatMul(z, w) }", {"w": normal(8, 4)})
    save(proto, tmp_path, "other.onnx")
    before = snapshot(tmp_path)
    outcome = in_process("bench", *arguments, folder=tmp_path, capture=capfd)
    assert said in outcome.stderr
    expect_refusal(outcome, code, before, tmp_path)


def test_without_an_engine_the_run_completes_and_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network(tmp_path)
    samples(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "data.npz", folder=tmp_path, capture=capfd)
    assert outcome.code == 0
    told = [line for line in outcome.stdout.splitlines() if line.startswith("speed-up not measured: ")]
    assert len(told) == 1
    assert "TensorRT: tensorrt is not installed." in told[0]
    assert "estimate: 100.0 % of the linear layers' operations" in outcome.stdout


def test_files_in_the_precision_asked_for_are_written_and_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network(tmp_path)
    samples(tmp_path, labels=np.arange(20) % 4)
    outcome = in_process("net.onnx", "--calibration", "data.npz", "--precision", "fp16", folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "net-2to4"
    engine = json.loads((folder / "report.json").read_text())["engine"]
    assert set(engine["files"].values()) == {"engines/dense.fp16.onnx", "engines/sparse.fp16.onnx"}
    assert all((folder / name).is_file() for name in engine["files"].values())
    assert "top1" in engine["accuracy"]


def test_a_batch_axis_that_is_dynamic_in_name_only_is_timed_at_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = model(
        "g (float[N,8] x) => (float[one,4] y) { r = Reshape(x, shape) y = MatMul(r, w) }",
        {"w": normal(8, 4), "shape": np.array([1, 8])},
    )
    save(proto, tmp_path, "one.onnx")
    outcome = in_process("bench", "one.onnx", "one.onnx", folder=tmp_path, capture=capfd)
    assert outcome.code == 0, outcome.stderr
    points = json.loads((tmp_path / "one-bench" / "report.json").read_text())["engine"]["latency"]
    assert [point["batch"] for point in points] == [1]
    refused = in_process("bench", "one.onnx", "one.onnx", "--batch", "8", "--force", folder=tmp_path, capture=capfd)
    assert (refused.code, "cannot be run on 8 samples" in refused.stderr) == (2, True)
