"""The memory of a run does not grow with its samples: the benchmark in a small form, with a bound of its own."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("large_npz")


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
def test_twelve_thousand_more_samples_take_no_more_memory(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--samples", "16000", "--few", "4000", "--limit", "58"]  # half of the 117 MB that the file grows by
    code = benchmark.main([*more, "--pooled"])
    assert code == 0, capsys.readouterr().out


def test_a_peak_above_the_limit_fails(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmark, "measure_run", lambda _, samples, __: benchmark.Peak(samples, 1.0, samples / 10, 1.0)
    )
    assert benchmark.main(["--samples", "1000", "--few", "100", "--limit", "90"]) == 0
    assert benchmark.main(["--samples", "1000", "--few", "100", "--limit", "89"]) == 1
