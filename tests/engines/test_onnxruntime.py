"""The ONNX Runtime engine: real times of both models, and never a claim of a sparse speed-up."""

from itertools import count
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest

from prox24_export.engines.onnxruntime import NO_SPARSE_KERNELS, OnnxRuntimeTimed, bench
from prox24_export.engines.timing.latency import Procedure
from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from tests.graphs import model, normal, opened, rewritten, run, save

TEXT = "g (float[b,64] x) => (float[b,32] y) { y = MatMul(x, w) }"
QUICK = Procedure(warm_up_ms=1, duration_ms=1, least_rounds=6, resamples=50, turn_ms=1, most_variation=100)


def models(folder: Path) -> tuple[Path, Path]:
    dense = opened(model(TEXT, {"w": normal(64, 32)}), folder)
    return dense.path, rewritten(dense, folder / "sparse")


def test_both_models_are_timed_at_every_batch_and_the_sentence_is_there(tmp_path: Path) -> None:
    report = bench(*models(tmp_path), [{"x": normal(size, 64)} for size in (1, 8)], QUICK)
    assert report.engine == "onnxruntime"
    assert report.version == ort.__version__
    assert report.precision == "fp32"
    assert report.not_measured == NO_SPARSE_KERNELS
    assert "no sparse speed-up exists" in NO_SPARSE_KERNELS
    assert [(point.batch, point.shapes) for point in report.latency] == [(1, {"x": (1, 64)}), (8, {"x": (8, 64)})]
    for point in report.latency:
        assert point.valid, point.reasons
        assert point.flag_off is None
        assert NO_SPARSE_KERNELS in point.warnings
        assert point.dense.runs == point.sparse.runs >= 6
        assert 0 < point.dense.min <= point.dense.median <= point.dense.max


def test_times_are_those_of_the_clock_in_milliseconds(tmp_path: Path) -> None:
    ticks = count()
    timed = OnnxRuntimeTimed("dense", OnnxGraph(models(tmp_path)[0]), {"x": normal(2, 64)}, lambda: next(ticks) / 4)
    assert timed.times(3) == [250.0] * 3
    timed.close()
    with pytest.raises(RuntimeError, match="closed"):
        timed.times(1)


def test_outputs_are_the_models(tmp_path: Path) -> None:
    path, _ = models(tmp_path)
    feeds = {"x": normal(2, 64)}
    (found,) = OnnxRuntimeTimed("dense", OnnxGraph(path), feeds).outputs().items()
    assert found[0] == "y"
    np.testing.assert_allclose(found[1], run(path, feeds)[0], rtol=1e-5, atol=1e-5)


def test_a_nan_makes_the_measurement_invalid(tmp_path: Path) -> None:
    weight = normal(64, 32)
    weight[3, 3] = np.nan
    broken = save(model(TEXT, {"w": weight}), tmp_path / "broken")
    (point,) = bench(models(tmp_path)[0], broken, [{"x": normal(2, 64)}], QUICK).latency
    assert not point.valid
    assert "sparse: outputs differ" in point.reasons[0]
    assert "2 NaN" in point.reasons[0]


def test_a_type_without_kernels_is_run_as_float32_and_said_so(tmp_path: Path) -> None:
    text = TEXT.replace("float", "bfloat16")
    path = save(model(text, {"w": normal(64, 32, dtype=ml_dtypes.bfloat16)}, opset=22, ir=10), tmp_path)
    report = bench(path, path, [{"x": normal(2, 64)}], QUICK)
    assert report.precision == "fp32"
    assert any("float32 copies were run" in warning for warning in report.latency[0].warnings)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x01\x02")
    with pytest.raises(InputError):
        bench(models(tmp_path)[0], tmp_path / "x.onnx", [{"x": normal(2, 64)}], QUICK)
