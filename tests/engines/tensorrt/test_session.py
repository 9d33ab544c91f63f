"""Sessions on engines of the stand-in: outputs, graphs, times, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
import torch

from prox24_export.engines.tensorrt.cuda_device import CudaDevice
from prox24_export.engines.tensorrt.session import EngineRunError, TrtSession
from prox24_export.errors import InputError
from prox24_export.passes.emit_engine.build import BuiltEngine, EmitEngines
from prox24_export.passes.emit_engine.capture_log import capture_log
from tests.engines.tensorrt.trt_models import NARROW, RANGE, SETTINGS, WIDE, model, reference, rows
from tests.engines.tensorrt.trt_standin import host_cuda


@pytest.fixture
def session(built: tuple[BuiltEngine, ...]) -> Iterator[TrtSession]:
    opened = TrtSession("sparse", built[1].engine, {"x": rows()}, device=CudaDevice("cpu"))
    yield opened
    opened.close()


def test_a_session_computes_what_the_model_does_and_replays_a_graph(session: TrtSession, tmp_path: Path) -> None:
    wanted = reference(tmp_path / "s.onnx", x=rows())[0]
    for _ in range(2):
        np.testing.assert_array_equal(session.outputs()["y"], wanted)
    assert session.notes == ()
    times = session.times(5)
    assert len(times) == 5
    assert all(time > 0 for time in times)


def test_one_inference_is_one_replay(session: TrtSession) -> None:
    launch: Any = session._launch  # noqa: SLF001 (the stand-in counts)
    session.outputs()
    session.times(7)
    assert launch.__self__.replays == 8


def test_results_are_waited_for(session: TrtSession) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cuda.Stream, "synchronize", lambda _: None)
        memory = session._memory["y"]  # noqa: SLF001 (what a missing wait would read)
        memory.zero_()
        unfinished = session.outputs()["y"]
    assert not unfinished.any(), "the stand-in must work late, or this test shows nothing"
    assert session.outputs()["y"].any()


def test_inputs_are_copied_and_other_floats_are_converted(built: tuple[BuiltEngine, ...], tmp_path: Path) -> None:
    data = rows().astype(np.float64)[:, ::-1]  # neither contiguous nor float32
    opened = TrtSession("sparse", built[1].engine.read_bytes(), {"x": data}, device=CudaDevice("cpu"))
    wanted = reference(tmp_path / "s.onnx", x=np.ascontiguousarray(data, np.float32))[0]
    data[:] = 0
    np.testing.assert_array_equal(opened.outputs()["y"], wanted)


def test_layer_times_come_from_a_profiled_run(built: tuple[BuiltEngine, ...]) -> None:
    opened = TrtSession("s", built[1].engine, {"x": rows()}, device=CudaDevice("cpu"), graph=False)
    run = opened._enqueue  # noqa: SLF001 (counts inferences)
    with mock.patch.object(opened, "_enqueue", side_effect=run) as runs:
        times = opened.layer_times(4)
    assert runs.call_count == 4
    assert times.keys() == {f"{WIDE}_myl0_1", f"{NARROW}_myl0_1"}
    assert all(time > 0 for time in times.values())


def test_a_capture_that_fails_is_noted_and_the_session_runs(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True, name="standin_no_capture")
    settings = EmitEngines(profile={"standin_no_capture": RANGE["x"]})
    engine = settings.emit_one(file, "sparse", tmp_path)
    before = torch.cuda.current_stream()
    opened = TrtSession("sparse", engine.engine, {"standin_no_capture": rows()}, device=CudaDevice("cpu"))
    assert opened.notes == (
        "sparse runs without a CUDA graph: IExecutionContext::operation not permitted when stream is capturing",
    )
    assert torch.cuda.current_stream() is before, "torch does not restore it"
    np.testing.assert_array_equal(opened.outputs()["y"], reference(file, standin_no_capture=rows())[0])
    assert len(opened.times(3)) == 3


def test_close_gives_everything_back_and_may_be_repeated(session: TrtSession) -> None:
    session.close()
    session.close()
    assert session._memory == {}  # noqa: SLF001 (what is given back)
    assert session._engine is None  # noqa: SLF001


@pytest.mark.parametrize(
    ("feeds", "complaint"),
    [
        ({}, r"needs an input 'x'. Got \[\]"),
        ({"x": rows().astype(np.int64)}, "input 'x' must be float32. Got int64"),
        ({"x": rows(9)}, r"it takes 'x' from \(1, 64\) to \(8, 64\), not \(9, 64\)\. .*--shapes"),
        ({"x": rows()[0]}, r"not \(64,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    built: tuple[BuiltEngine, ...], feeds: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        TrtSession("sparse", built[1].engine, feeds, device=CudaDevice("cpu"))


def test_the_profile_that_accepts_the_shapes_is_taken(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile  # noqa: PLC0415

    file = model(tmp_path / "s.onnx", sparse=True)
    with capture_log():
        profiles = [Profile().add("x", *((size, 64),) * 3) for size in (1, 6)]
        config = CreateConfig(profiles=profiles)
        plan = EngineBytesFromNetwork(NetworkFromOnnxPath(str(file), strongly_typed=True), config)()
    opened = TrtSession("s", bytes(plan), {"x": rows(6)}, device=CudaDevice("cpu"))
    np.testing.assert_array_equal(opened.outputs()["y"], reference(file, x=rows(6))[0])
    with pytest.raises(InputError, match=r"'x' from \(1, 64\) to \(1, 64\), not \(2, 64\); or 'x' from \(6, 64\)"):
        TrtSession("s", bytes(plan), {"x": rows(2)}, device=CudaDevice("cpu"))


@pytest.mark.parametrize(
    ("method", "answer", "complaint"),
    [
        ("get_tensor_location", "TensorLocation.HOST", "'x' must be in device memory. Got a shape tensor"),
        ("get_tensor_format", "TensorFormat.HWC", "'x' must be in linear layout. Got TensorFormat.HWC"),
        ("get_tensor_dtype", "EngineCapability.STANDARD", "'x' must be one of FLOAT, .*Got STANDARD"),
    ],
)
def test_tensors_that_the_session_cannot_feed_are_refused(
    trt: ModuleType, built: tuple[BuiltEngine, ...], method: str, answer: str, complaint: str
) -> None:
    engine = next(kind for kind in trt.CLASSES if kind.__name__ == "ICudaEngine")
    enumeration, member = answer.split(".")
    found = getattr(getattr(trt, enumeration), member)
    with mock.patch.object(engine, method, return_value=found), pytest.raises(InputError, match=complaint):
        TrtSession("s", built[1].engine, {"x": rows()}, device=CudaDevice("cpu"))


def test_an_engine_of_another_version_is_refused(built: tuple[BuiltEngine, ...]) -> None:
    plan = built[1].engine.read_bytes().replace(b'"version": "1', b'"version": "9', 1)
    for wrong in (plan, b"no engine"):
        with pytest.raises(EngineRunError, match=r"cannot load the engine s: .*version tag mismatch.* that built it"):
            TrtSession("s", wrong, {"x": rows()}, device=CudaDevice("cpu"))


def test_no_memory_for_the_context_is_told(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    name = "standin_out_of_memory"
    engine = EmitEngines({name: RANGE["x"]}).emit_one(
        model(tmp_path / "s.onnx", sparse=True, name=name), "sparse", tmp_path
    )
    with pytest.raises(EngineRunError, match="OutOfMemory"):
        TrtSession("s", engine.engine, {name: rows()}, device=CudaDevice("cpu"))


def test_an_output_whose_size_depends_on_data_is_refused(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 64] x) => (int64[2, M] y) { y = NonZero(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "n.onnx")
    engine = SETTINGS.emit_one(tmp_path / "n.onnx", "dense", tmp_path)
    with pytest.raises(EngineRunError, match=r"size of output 'y', \(2, -1\), depends on data"):
        TrtSession("s", engine.engine, {"x": rows()}, device=CudaDevice("cpu"))
