"""A model of 300 MB whose weights stay in their file: a run holds no copy of it."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WIDTH, BLOCKS, SAMPLES = 640, 24, 16
MOST_MB = 450  # without the model a run of this kind takes 320 MB, and a copy of it would be 300 more


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of anonymous memory on Linux only")
def test_a_run_holds_no_copy_of_a_large_model(benchmarks: Any, tmp_path: Path) -> None:
    large, memory = benchmarks("large_onnx"), benchmarks("anonymous_memory")
    model, samples, out = tmp_path / "model.onnx", tmp_path / "samples.npz", tmp_path / "out"
    large.make_transformer(model, BLOCKS, WIDTH)
    large.make_samples(samples, SAMPLES, WIDTH)
    assert (tmp_path / "model.onnx.data").stat().st_size > 300e6
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(samples), "-o", str(out)]
    measured = memory.measure_command([*command, "--method", "magnitude", "--quiet"])
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert sum(layer["state"] == "sparse" for layer in report["layers"]) == 6 * BLOCKS + 1
    assert report["accuracy"]["samples"] > 0
    executions = report["executions"]
    assert executions["calibration"] <= 2 * executions["dense_pass"]
    assert measured.peak_mb < MOST_MB


def test_the_peak_of_a_command_is_seen(benchmarks: Any) -> None:
    memory = benchmarks("anonymous_memory")
    hold = "import time; held = bytearray(200 << 20); time.sleep(0.5)"
    small, large = (memory.measure_command([sys.executable, "-c", code]).peak_mb for code in ("pass", hold))
    assert small < 100
    assert 200 < large < 300
    with pytest.raises(SystemExit, match="ended with 3"):
        memory.measure_command([sys.executable, "-c", "raise SystemExit(3)"])
