"""The whole TensorRT stage through the stand-in: files, states of layers, times, outputs against ONNX Runtime."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.engine_models import prune_by_magnitude
from benchmarks.gpu.tensorrt_engines import Case, run_engines
from prox24_export import pipeline
from prox24_export.engines.tensorrt import measure as tensorrt_bench
from prox24_export.engines.tensorrt.cuda_device import CudaDevice
from prox24_export.engines.tensorrt.session import TrtSession
from prox24_export.engines.timing import latency
from prox24_export.engines.timing.latency import Procedure
from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.emit_engine import tensorrt
from prox24_export.passes.emit_engine.build import EmitEngines
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.results.report import Fault, Report
from prox24_export.settings import Settings
from prox24_export.shapes import ShapeRange
from prox24_export.stages import engines as engine_stage
from tests.engines.tensorrt.trt_models import VERSIONS, standin
from tests.graphs import model, normal, save

QUICK = Procedure(warm_up_ms=0.01, duration_ms=0.01, least_rounds=6, turn_ms=0.01, most_variation=1e9, resamples=50)


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    measure = latency.measure_latency
    monkeypatch.setattr(tensorrt_bench, "measure_latency", lambda *a, **k: measure(*a, **(k | {"procedure": QUICK})))
    with standin(request.param) as module:
        here = tensorrt.Availability(True, str(module.__version__), "a stand-in", sparse=True)
        monkeypatch.setattr(tensorrt, "availability", lambda: here)
        monkeypatch.setattr(engine_stage, "watch_gpu", nullcontext)
        monkeypatch.setattr("prox24_export.engines.tensorrt.session.CudaDevice", partial(CudaDevice, "cpu"))
        yield module


def network(folder: Path) -> Path:
    """`x` [N, 64] → two layers → `y` [N, 24]."""
    proto = model(
        "g (float[N,64] x) => (float[N,24] y) { [wide] a = MatMul(x, w0) b = Relu(a) [narrow] y = MatMul(b, w1) }",
        {"w0": normal(64, 16), "w1": normal(16, 24)},
    )
    return save(proto, folder, "net.onnx")


def run(folder: Path, **settings: Any) -> Report:
    np.savez(folder / "data.npz", x=normal(24, 64))
    return pipeline.export(
        network(folder), folder / "data.npz", folder / "out", settings=replace(Settings(engine="tensorrt"), **settings)
    )


def test_engines_are_built_diagnosed_and_timed(trt: ModuleType, tmp_path: Path) -> None:
    report = run(tmp_path, workspace_mb=64)
    engine = report.engine
    assert engine is not None
    assert (engine.engine, engine.version, engine.precision) == ("tensorrt", trt.__version__, "fp16")
    for what in ("dense onnx", "sparse onnx", "dense engine", "sparse engine", "sparse-off engine", "sparse build log"):
        assert (tmp_path / "out" / engine.files[what]).is_file(), what
    states = {layer.name: (layer.pattern, layer.eligible, layer.chosen) for layer in engine.layers}
    assert states == {"wide": (True, True, True), "narrow": (True, True, False)}
    assert all(layer.reason for layer in engine.layers if not layer.chosen)
    assert [point.batch for point in engine.latency] == [1, 4]  # one sample, and the report part
    assert not any("outputs differ" in reason for point in engine.latency for reason in point.reasons)
    assert all(point.flag_off and point.flag_speedup for point in engine.latency)
    assert engine.not_measured == ""
    assert engine.layer_times


def test_shapes_become_the_profile_and_what_is_timed(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    shapes = ShapeRange((1, 64), (4, 64), (8, 64))
    report = run(tmp_path, shapes={"x": shapes})
    assert report.engine is not None
    assert [point.shapes for point in report.engine.latency] == [{"x": (1, 64)}, {"x": (4, 64)}, {"x": (8, 64)}]


def test_a_wrong_engine_is_told(trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del trt
    session = TrtSession
    outputs = session.outputs
    monkeypatch.setattr(
        session, "outputs", lambda self: {k: v + (self.name == "sparse") for k, v in outputs(self).items()}
    )
    report = run(tmp_path)
    assert report.engine is not None
    assert all(not point.valid for point in report.engine.latency)
    assert all("sparse: outputs differ" in point.reasons[0] for point in report.engine.latency)


def test_fp32_engines_use_the_files_as_they_are(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    report = run(tmp_path, precision="fp32")
    assert report.engine is not None
    assert "sparse onnx" not in report.engine.files
    assert all("fp32" in layer.reason for layer in report.engine.layers if not layer.chosen)


def test_int8_engines_are_built_from_the_integers_and_compared_with_them(trt: ModuleType, tmp_path: Path) -> None:
    report = run(tmp_path, precision="int8")
    engine = report.engine
    assert engine is not None
    assert (engine.version, engine.precision) == (trt.__version__, "int8")
    assert Path(engine.files["sparse onnx"]).name == "sparse.int8.onnx"
    assert (tmp_path / "out" / engine.files["sparse engine"]).is_file()
    assert {layer.name for layer in engine.layers} == {"wide", "narrow"}
    assert all(layer.pattern for layer in engine.layers)
    assert engine.float_outputs.keys() == {"narrow"}
    assert not any("outputs differ" in reason for point in engine.latency for reason in point.reasons)


def test_a_failed_build_costs_no_model_and_does_not_pass(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    monkeypatch.setattr(EmitEngines, "call", _fails)
    report = run(tmp_path)
    assert report.faults == (Fault("engines", "no engine for you"),)
    assert not report.passed
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_where_only_the_inspector_fails_engines_are_kept_timed_and_judged_by_the_log(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    monkeypatch.setattr("prox24_export.passes.emit_engine.build.read_layer_information", _fails)
    report = run(tmp_path)
    assert report.faults == ()
    engine = report.engine
    assert engine is not None
    assert (tmp_path / "out" / engine.files["sparse engine"]).is_file()
    assert "sparse layers" not in engine.files
    assert [point.batch for point in engine.latency] == [1, 4]
    assert {layer.name: layer.chosen for layer in engine.layers} == {"wide": True, "narrow": False}
    said = "sparse: TensorRT's inspector failed, so that layers are judged by the log alone: no engine for you"
    assert said in engine.disagreements


def test_what_the_inspector_says_is_not_trusted_to_be_json(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    monkeypatch.setattr("prox24_export.passes.emit_engine.build.read_layer_information", lambda _plan: '"half')
    report = run(tmp_path)
    assert report.engine is not None
    assert report.engine.latency
    assert any("expected the JSON of TensorRT's engine inspector" in text for text in report.engine.disagreements)


def test_under_auto_a_failed_build_is_told_and_the_run_goes_on(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    monkeypatch.setattr(EmitEngines, "call", _fails)
    report = run(tmp_path, engine="auto")
    assert report.engine is not None
    assert report.engine.not_measured == "tensorrt failed: no engine for you"


def _fails(*_arguments: object, **_options: object) -> None:
    raise InputError("no engine for you")


def test_without_tensorrt_it_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxGraph, "runner", lambda _self: pytest.fail("work was done"))
    with pytest.raises(UnavailableError, match=r"tensorrt is not installed\. Install it: pip install"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_gpu_benchmark_takes_the_same_way(trt: ModuleType, tmp_path: Path) -> None:
    dense = OnnxGraph(network(tmp_path))
    (tmp_path / "pruned").mkdir()
    sparse, _ = prune_by_magnitude(dense, tmp_path / "pruned")
    batches = [{"x": normal(size, 64)} for size in (1, 4)]
    report = run_engines(Case(dense, sparse, batches, "fp16", tmp_path, QUICK, None))
    assert report.version == trt.__version__
    assert [point.batch for point in report.latency] == [1, 4]
    assert [layer.chosen for layer in report.layers] == [True, False]
    assert not any("outputs differ" in reason for point in report.latency for reason in point.reasons)
