"""What is built and timed at the end of a run, and what happens where it cannot be."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest

from prox24_export import Settings, export
from prox24_export.engines.choice import EngineChoice
from prox24_export.engines.tensorrt import measure as tensorrt_bench
from prox24_export.errors import InputError
from prox24_export.passes.emit_engine.build import EngineBuildError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.precision.check import PrecisionError
from prox24_export.passes.precision.lower import LowerPrecision
from prox24_export.results.report import Fault
from prox24_export.stages import engines as engine_stage
from prox24_export.stages.engines import FinishedPair
from prox24_export.stages.lower import lower
from tests.command import network, samples
from tests.graphs import model, normal, save


@pytest.fixture
def has_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "prox24_export.stages.prepare.choose_engine", lambda *_a, **_k: EngineChoice("tensorrt", "fp16")
    )


def failing(error: Exception) -> Any:
    def bench(*_arguments: object, **_more: object) -> None:
        raise error

    return bench


@pytest.mark.usefixtures("has_tensorrt")
def test_under_auto_any_failure_of_the_engine_is_told_and_the_model_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_stage, "_measure_tensorrt", failing(MemoryError("no memory left")))
    report = export(network(tmp_path), samples(tmp_path), tmp_path / "out")
    assert report.engine is not None
    assert report.engine.not_measured == "tensorrt failed: no memory left"
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.usefixtures("has_tensorrt")
def test_an_engine_that_was_asked_for_and_fails_costs_no_model_and_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_stage, "_measure_tensorrt", failing(MemoryError("no memory left")))
    report = export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=Settings(engine="tensorrt"))
    assert report.faults == (Fault("engines", "MemoryError: no memory left"),)
    assert not report.passed
    assert len(report.sparse_layers) == 2
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.usefixtures("has_tensorrt")
def test_the_builders_log_is_in_the_folder_where_the_fault_says_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_job: object, finished: FinishedPair, *_: object) -> NoReturn:
        log = finished.folder / "engines" / "dense.build.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("all it said", "utf-8")
        raise EngineBuildError("TensorRT built no engine from x: it is too large.", log, "all it said")

    monkeypatch.setattr(engine_stage, "_measure_tensorrt", fail)
    report = export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=Settings(engine="tensorrt"))
    (fault,) = report.faults
    assert fault.message.startswith("TensorRT built no engine from x: it is too large. All that it said is in ")
    assert Path(fault.message.rpartition(" ")[2]).read_text("utf-8") == "all it said"
    assert "engines/dense.build.log" in report.files


@pytest.mark.usefixtures("has_tensorrt")
def test_where_nothing_is_sparse_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_bench, "bench", failing(AssertionError("built")))
    path = save(model("g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": normal(6, 4)}), tmp_path)
    report = export(path, None, tmp_path / "out", settings=Settings(engine="tensorrt"))
    assert report.engine is not None
    assert report.engine.not_measured == "no layer is sparse: both models are the same."


@pytest.mark.parametrize("shapes", [{"nosuch": (1, 8)}, {"x": (1, 9)}, {"x": (1, 8, 8)}])
def test_shapes_that_do_not_fit_are_refused_before_the_work(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.pipeline.solve", failing(AssertionError("work was done")))
    with pytest.raises(InputError, match="--shapes"):
        export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=Settings(shapes=shapes))


def test_a_conversion_that_was_asked_for_and_fails_costs_no_model_and_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_stage, "lower", failing(PrecisionError("overflow")))
    report = export(network(tmp_path), samples(tmp_path), tmp_path / "out", settings=Settings(precision="fp16"))
    assert report.faults == (Fault("engines", "overflow"),)
    assert not report.passed


def test_the_same_nodes_stay_in_float32_in_both_files(tmp_path: Path) -> None:
    """The dense model's values are near the end of float16, the sparse one's are not."""
    text = "g (float[N,8] x) => (float[N,4] y) { [first] a = MatMul(x, w) [second] y = MatMul(a, v) }"
    dense, sparse = np.full((8, 4), 3000, np.float32), np.full((8, 4), 3000, np.float32)
    sparse[[2, 3, 6, 7]] = 0
    small = np.full((4, 4), 1e-3, np.float32)
    paths: list[Path] = [
        save(model(text, {"w": weight, "v": small}), tmp_path, f"{name}.onnx")
        for name, weight in (("d", dense), ("s", sparse))
    ]
    one, other = paths
    feeds = [{"x": np.ones((2, 8), np.float32)}]
    files = lower(one, other, ["w"], tmp_path / "engines", precision="fp16", feeds=feeds)
    assert files.lowered is not None
    assert files.lowered.kept_in_fp32.keys() == {"first", "second"}
    types = [
        {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
        for path in (files.dense, files.sparse)
    ]
    assert types[0] == types[1] == dict.fromkeys("wv", onnx.TensorProto.FLOAT)
    alone = LowerPrecision("fp16").call(source=paths[1], target=tmp_path / "alone.onnx", feeds=feeds)
    assert not alone.kept_in_fp32, "the sparse model alone would not need it: the test tests nothing"


def test_what_conversion_has_to_say_is_in_the_report(tmp_path: Path) -> None:
    proto = model("g (float16[N,8] x) => (float16[N,4] y) { y = MatMul(x, w) }", {"w": normal(8, 4, dtype=np.float16)})
    np.savez(tmp_path / "half.npz", x=normal(20, 8, dtype=np.float16))
    path = save(proto, tmp_path, "half.onnx")
    report = export(path, tmp_path / "half.npz", tmp_path / "out", settings=Settings(precision="bf16"))
    assert report.engine is not None
    assert any("float16 already" in note for note in report.engine.notes)


def test_the_profile_spans_what_is_timed(tmp_path: Path) -> None:
    graph = OnnxGraph(network(tmp_path))
    batches = [{"x": np.zeros((size, 8), np.float32)} for size in (1, 6)]
    assert str(engine_stage.make_profile(graph, {}, batches)["x"]) == "1x8,6x8,6x8"
