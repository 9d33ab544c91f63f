"""From ONNX files to engines, log, inspector, session and times, through Polygraphy's loaders and the stand-in.

The stand-in refuses calls out of order and of the wrong type, and works late as a GPU does; its own refusals are
tested at the end. What it claims of TensorRT's interface is held against the real bindings in `test_trt_bindings.py`.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from prox24_export.engines.build_log import captured
from prox24_export.engines.cuda_device import CudaDevice
from prox24_export.engines.profiles import ShapeRange
from prox24_export.engines.tensorrt import availability, require
from prox24_export.engines.trt_session import EngineRunError, TrtSession
from prox24_export.engines.trt_versions import builder_flags, generation
from prox24_export.errors import InputError, UnavailableError
from prox24_export.passes.emit_engine import BuildSettings, BuiltEngine, EngineBuildError, emit_engine, emit_engines
from tests.engines.trt_models import NARROW, RANGE, VERSIONS, WIDE, model, reference, rows, standin
from tests.engines.trt_standin import host_cuda

SETTINGS = BuildSettings(profile=RANGE, workspace=1 << 30)


@pytest.fixture(scope="module", params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    with standin(request.param) as module:
        yield module


@pytest.fixture
def old() -> Iterator[ModuleType]:
    with standin("8.6.1") as module:
        yield module


@pytest.fixture
def built(trt: ModuleType, tmp_path: Path) -> tuple[BuiltEngine, ...]:
    del trt
    dense, sparse = model(tmp_path / "d.onnx", sparse=False), model(tmp_path / "s.onnx", sparse=True)
    (tmp_path / "engines").mkdir()
    return emit_engines(dense, sparse, tmp_path / "engines", SETTINGS)


@pytest.fixture
def session(built: tuple[BuiltEngine, ...]) -> Iterator[TrtSession]:
    opened = TrtSession("sparse", built[1].engine, {"x": rows()}, device=CudaDevice("cpu"))
    yield opened
    opened.close()


def tactics(engine: BuiltEngine) -> dict[str, bool]:
    """Whether each layer of the engine has a sparse tactic, by its ONNX node."""
    layers = json.loads(engine.layers.read_text())["Layers"]
    return {layer["Name"].removesuffix("_myl0_1"): "sptensor" in layer["TacticName"] for layer in layers}


def sparsity(engine: BuiltEngine) -> list[str]:
    return [line.partition("(Sparsity) ")[2] for line in engine.log.read_text().splitlines() if "(Sparsity)" in line]


def expect_sparse(engine: BuiltEngine) -> None:
    assert tactics(engine) == {WIDE: True, NARROW: False}
    assert sparsity(engine) == [
        f"Found 2 layer(s) eligible to use sparse tactics: {WIDE}, {NARROW}",
        f"Chose 1 layer(s) using sparse tactics: {WIDE}",
    ]


def test_three_engines_differ_in_weights_and_flag_alone(built: tuple[BuiltEngine, ...]) -> None:
    dense, sparse, off = built
    assert [engine.kind for engine in built] == ["dense", "sparse", "sparse-off"]
    expect_sparse(sparse)
    for engine in (dense, off):
        assert not any(tactics(engine).values())
        assert sparsity(engine) == []
    flags = [next(line for line in engine.log.read_text().splitlines() if line.startswith("Flags")) for engine in built]
    assert [("SPARSE_WEIGHTS" in line, "TF32" in line) for line in flags] == [
        *((False, True), (True, True), (False, True))
    ]
    assert all("WORKSPACE: 1024.00 MiB" in engine.log.read_text() for engine in built)
    assert all(engine.notes == () and engine.seconds >= 0 for engine in built)


def test_the_check_of_the_sparse_engine_fails_without_the_flag(trt: ModuleType, tmp_path: Path) -> None:
    def forgotten(self: Any, flag: Any) -> None:
        if flag.name != "SPARSE_WEIGHTS":
            self._flags.add(flag.name)

    file = model(tmp_path / "s.onnx", sparse=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt.CLASSES[4], "set_flag", forgotten)
        engine = emit_engine(file, "sparse", tmp_path, SETTINGS)
    with pytest.raises(AssertionError):
        expect_sparse(engine)


def test_a_network_of_ten_is_strongly_typed_or_it_computes_in_float32(trt: ModuleType, tmp_path: Path) -> None:
    """The stand-in's older generation finds no fp16 layer in a network without the flag, as TensorRT finds none."""
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile  # noqa: PLC0415

    file = model(tmp_path / "s.onnx", sparse=True)
    with captured() as log:
        profile = Profile().add("x", *((1, 64),) * 3)
        config = CreateConfig(sparse_weights=True, profiles=[profile])
        EngineBytesFromNetwork(NetworkFromOnnxPath(str(file)), config)()
    assert any("Found 0 layer(s)" in line for line in log.lines) == (trt.__version__ == VERSIONS[0])
    expect_sparse(emit_engine(file, "sparse", tmp_path, SETTINGS))


def test_files_are_whole_and_nothing_else_is_left(built: tuple[BuiltEngine, ...]) -> None:
    folder = built[0].engine.parent
    parts = ("build.log", "engine", "layers.json")
    wanted = {f"{kind}.fp16.{part}" for kind in ("dense", "sparse", "sparse-off") for part in parts} | {"timing.cache"}
    assert {place.name for place in folder.iterdir()} == wanted
    assert all(place.stat().st_mode & 0o777 == 0o644 for place in folder.iterdir() if place.name != "timing.cache")
    assert json.loads((folder / "timing.cache").read_text()).keys() == {
        *(f"{WIDE}:64:False", f"{NARROW}:16:False", f"{WIDE}:64:True", f"{NARROW}:16:True"),
    }


def test_engines_share_a_timing_cache_and_begin_with_an_earlier_one(
    built: tuple[BuiltEngine, ...], tmp_path: Path
) -> None:
    told = [[message.partition(" ")[0] for message in engine.messages if "timing cache" in message] for engine in built]
    assert [[word for word in words if word in ("Timed", "Found")] for words in told] == [
        *(["Timed"] * 2, ["Timed"] * 2, ["Found"] * 2)
    ]
    (tmp_path / "later").mkdir()
    cache = built[0].engine.parent / "timing.cache"
    before = cache.read_bytes()
    again = emit_engine(
        tmp_path / "s.onnx", "sparse", tmp_path / "later", replace(SETTINGS, timing_cache=cache, optimization_level=5)
    )
    assert f"Found tactics of {WIDE} in the timing cache" in again.messages
    assert cache.read_bytes() == before, "the earlier cache is the user's"
    assert sorted(place.name for place in cache.parent.iterdir() if "lock" in place.name) == []


def test_nothing_is_printed_and_polygraphys_logger_is_as_before(
    trt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del trt
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415 (known only with the stand-in)

    names = ("use_python_logging_system", "module_severity", "colors", "letter", "once_logged")
    before = [getattr(G_LOGGER, name) for name in names]
    engine = emit_engine(model(tmp_path / "s.onnx", sparse=True), "sparse", tmp_path, SETTINGS)
    TrtSession("s", engine.engine, {"x": rows()}, device=CudaDevice("cpu")).times(2)
    assert capfd.readouterr() == ("", "")
    assert [getattr(G_LOGGER, name) for name in names] == before


def test_every_log_has_the_warnings_of_its_build(built: tuple[BuiltEngine, ...]) -> None:
    for engine in built:
        assert engine.log.read_text().count("[W] [TRT] Detected layers that a stand-in cannot fuse.") == 1


def test_the_log_reads_as_trtexecs(built: tuple[BuiltEngine, ...]) -> None:
    builder_log = pytest.importorskip("prox24_export.engines.builder_log")
    found = builder_log.parse(built[1].log.read_text())
    assert (found.eligible.names, found.chosen.names) == ((WIDE, NARROW), (WIDE,))
    assert builder_log.parse_messages(built[1].messages).chosen.names == (WIDE,)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda file: file.write_bytes(b"no model"), "Failed to parse ONNX model"),
        (lambda file: file.unlink(), "Could not open file"),
        (lambda file: rename_operator(file, "Einsum"), "Plugin not found for operator: Einsum"),
    ],
)
def test_a_file_that_cannot_be_read_fails_with_what_tensorrt_said(
    trt: ModuleType, tmp_path: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True)
    before = emit_engine(file, "sparse", tmp_path, SETTINGS).engine.read_bytes()
    spoil(file)
    with pytest.raises(EngineBuildError, match=rf"built no engine from .*s\.onnx: .*{complaint}.*build\.log") as caught:
        emit_engine(file, "sparse", tmp_path, SETTINGS)
    assert complaint in caught.value.log
    assert (tmp_path / "sparse.fp16.build.log").read_text() == caught.value.log
    assert (tmp_path / "sparse.fp16.engine").read_bytes() == before
    assert not [place for place in tmp_path.iterdir() if place.name.startswith(".")]


def rename_operator(file: Path, name: str) -> None:
    proto = onnx.load(file)
    proto.graph.node[1].op_type = name
    onnx.save(proto, file)


def test_a_profile_that_does_not_fit_fails_the_build(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True)
    wrong = ShapeRange((1, 32), (1, 32), (1, 32))
    with pytest.raises(EngineBuildError, match="does not fit input x"):
        emit_engine(file, "dense", tmp_path, BuildSettings(profile={"x": wrong}))
    with pytest.raises(EngineBuildError, match="Invalid inputs were provided"):
        emit_engine(file, "dense", tmp_path, BuildSettings(profile=RANGE | {"other": wrong}))
    assert not list(tmp_path.glob("*.engine"))


def test_a_name_with_the_signs_of_a_glob_is_a_name(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True)
    proto = onnx.load(file)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "x[0]*"
    onnx.save(proto, file)
    engine = emit_engine(file, "sparse", tmp_path, BuildSettings(profile={"x[0]*": RANGE["x"]}))
    opened = TrtSession("s", engine.engine, {"x[0]*": rows(8)}, device=CudaDevice("cpu"))
    assert opened.outputs()["y"].shape == (8, 24)


def test_a_session_computes_what_the_model_does_and_replays_a_graph(session: TrtSession, tmp_path: Path) -> None:
    wanted = reference(tmp_path / "s.onnx", x=rows())[0]
    for _ in range(2):
        np.testing.assert_array_equal(session.outputs()["y"], wanted)
    assert session.notes == ()
    times = session.times(5)
    assert len(times) == 5
    assert all(time > 0 for time in times)


def test_one_inference_is_one_replay(session: TrtSession) -> None:
    replays: list[object] = []
    replay = host_cuda.CUDAGraph.replay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph)))
        session.outputs()
        session.times(7)
    assert len(replays) == 8


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
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        run = opened._enqueue  # noqa: SLF001 (counts inferences)
        patch.setattr(opened, "_enqueue", lambda: (calls.append("run"), run()))
        times = opened.layer_times(4)
    assert len(calls) == 4
    assert times.keys() == {f"{WIDE}_myl0_1", f"{NARROW}_myl0_1"}
    assert all(time > 0 for time in times.values())


def test_a_capture_that_fails_is_noted_and_the_session_runs(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True, name="standin_no_capture")
    settings = BuildSettings(profile={"standin_no_capture": RANGE["x"]})
    engine = emit_engine(file, "sparse", tmp_path, settings)
    opened = TrtSession("sparse", engine.engine, {"standin_no_capture": rows()}, device=CudaDevice("cpu"))
    assert opened.notes == (
        "sparse runs without a CUDA graph: IExecutionContext::operation not permitted when stream is capturing",
    )
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


def test_an_engine_of_another_version_is_refused(built: tuple[BuiltEngine, ...]) -> None:
    plan = built[1].engine.read_bytes().replace(b'"version": "1', b'"version": "9', 1)
    for wrong in (plan, b"no engine"):
        with pytest.raises(EngineRunError, match=r"cannot load the engine s: .*version tag mismatch.* that built it"):
            TrtSession("s", wrong, {"x": rows()}, device=CudaDevice("cpu"))


def test_no_memory_for_the_context_is_told(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    name = "standin_out_of_memory"
    engine = emit_engine(
        model(tmp_path / "s.onnx", sparse=True, name=name), "sparse", tmp_path, BuildSettings({name: RANGE["x"]})
    )
    with pytest.raises(EngineRunError, match="OutOfMemory"):
        TrtSession("s", engine.engine, {name: rows()}, device=CudaDevice("cpu"))


def test_an_output_whose_size_depends_on_data_is_refused(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 64] x) => (int64[2, M] y) { y = NonZero(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "n.onnx")
    engine = emit_engine(tmp_path / "n.onnx", "dense", tmp_path, SETTINGS)
    with pytest.raises(EngineRunError, match=r"size of output 'y', \(2, -1\), depends on data"):
        TrtSession("s", engine.engine, {"x": rows()}, device=CudaDevice("cpu"))


def test_names_without_tactics_are_noted(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt, "ProfilingVerbosity", SimpleNamespace(DETAILED=trt.ProfilingVerbosity.LAYER_NAMES_ONLY))
        engine = emit_engine(model(tmp_path / "s.onnx", sparse=True), "sparse", tmp_path, SETTINGS)
    assert engine.notes == ("TensorRT's layer information names layers without their tactics",)


def test_eight_builds_fp16_by_its_flag_and_says_so_in_its_own_words(old: ModuleType, tmp_path: Path) -> None:
    del old
    engine = emit_engine(model(tmp_path / "s.onnx", sparse=True, half=False), "sparse", tmp_path, SETTINGS)
    assert tactics(engine) == {WIDE: True, NARROW: False}
    assert sparsity(engine) == [
        f"Layers eligible for sparse math: {WIDE}, {NARROW}",
        f"TRT inference plan picked sparse implementation for layers: {WIDE}",
    ]
    with pytest.raises(UnavailableError, match=r"8\.6\.1 cannot build bf16 engines"):
        emit_engine(tmp_path / "s.onnx", "sparse", tmp_path, replace(SETTINGS, precision="bf16"))


@pytest.mark.parametrize(
    ("version", "row", "typed", "flags", "key"),
    [
        ("8.5.1.7", 8, False, {"fp16": True}, "Bindings"),
        ("8.6.1", 8, False, {"fp16": True}, "Bindings"),
        ("9.3.0", 10, True, {}, "Bindings"),
        ("10.16.1.11", 10, True, {}, "Bindings"),
        ("11.4.0.106", 11, False, {}, "I/O Tensors"),
        ("12.0.0", 11, False, {}, "I/O Tensors"),
    ],
)
def test_the_version_table(version: str, row: int, typed: bool, flags: dict[str, bool], key: str) -> None:
    found = generation(version)
    assert (found.major, found.strongly_typed, found.io_tensors) == (row, typed, key)
    assert builder_flags(version, "fp16") == flags
    assert builder_flags(version, "fp32") == {}


@pytest.mark.parametrize("version", ["8.4.3.1", "7.2.3"])
def test_older_versions_are_refused(version: str) -> None:
    with pytest.raises(UnavailableError, match=rf"8\.5 or later\. Got {version}"):
        generation(version)


def test_it_is_available_where_all_parts_are(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    found = require()
    assert (found.available, found.version, found.device, found.sparse) == (
        *(True, trt.__version__, "NVIDIA H100 80GB HBM3", True),
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not availability().sparse


def test_without_a_gpu_it_is_not(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    del trt
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        UnavailableError, match=r"--engine tensorrt cannot be used here: torch .* without CUDA\. Install"
    ):
        require()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = availability()
    assert "no CUDA GPU can be used" in found.reason
    assert "NVIDIA's driver" in found.remedy


def test_an_old_version_is_told_with_the_remedy(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "__version__", "8.2.1")
    found = availability()
    assert (found.available, found.reason) == (False, "TensorRT 8.2.1 is too old.")
    assert "prox24-export[tensorrt]" in found.remedy


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'tensorrt'\", name='tensorrt')",
            "is not installed",
            "[tensorrt]",
        ),
        ("raise ImportError('libnvonnxparser.so.11: cannot open shared object file')", "libnvonnxparser", "LD_LIBRARY"),
        ("raise OSError('libcublas.so.13: cannot open shared object file')", "libcublas", "LD_LIBRARY_PATH"),
    ],
)
def test_a_package_or_library_that_is_missing_is_told_with_the_remedy(
    tmp_path: Path, source: str, reason: str, remedy: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    code = (
        "from prox24_export.engines.tensorrt import availability as a; f = a(); print(f.available, f.reason, f.remedy)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("False ")
    assert reason in done.stdout
    assert remedy in done.stdout


def test_importing_the_engines_imports_nothing_that_is_optional_or_slow() -> None:
    modules = ("profiles", "tensorrt", "trt_session", "trt_versions", "build_log", "cuda_device", "gpu_state")
    code = (
        f"import sys; [__import__('prox24_export.engines.' + name) for name in {modules}];"
        "print({'tensorrt', 'polygraphy', 'torch', 'pynvml', 'onnxruntime'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    code = "import sys, prox24_export.passes.emit_engine; print({'tensorrt', 'polygraphy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_stand_in_refuses_calls_out_of_order_and_of_the_wrong_type(trt: ModuleType, tmp_path: Path) -> None:
    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined] # known at run time
        def log(self, severity: Any, msg: str) -> None:
            said.append(f"{severity.name} {msg}")

    trt.ILogger.first = None
    logger = Log()
    builder = trt.Builder(logger)
    network, config = builder.create_network(0), builder.create_builder_config()
    assert builder.build_serialized_network(network, config) is None, "not parsed"
    assert "ERROR" in said[-1]
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(model(tmp_path / "m.onnx", sparse=True)))
    assert builder.build_serialized_network(network, config) is None, "no profile"
    with pytest.raises(TypeError, match="flag must be"):
        config.set_flag(7)
    with pytest.raises(TypeError, match="model must be"):
        parser.parse_from_file(tmp_path)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1.5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        builder.create_network(flag=1)
    with pytest.raises(TypeError):
        trt.Builder("logger")
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    trt.ILogger.first = None


def test_the_stand_ins_context_needs_shapes_addresses_and_a_first_call_before_capture(
    trt: ModuleType, built: tuple[BuiltEngine, ...]
) -> None:
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415 (known only with the stand-in)

    with captured() as log:
        context = EngineFromBytes(built[1].engine.read_bytes())().create_execution_context()
        stream = host_cuda.Stream()
        assert context.infer_shapes() == ["x"]
        assert not context.execute_async_v3(stream.cuda_stream), "no shapes"
        assert not context.set_input_shape("x", (9, 64)), "outside the profile"
        assert context.set_input_shape("x", (2, 64))
        assert not context.execute_async_v3(stream.cuda_stream), "no addresses"
        assert not context.set_tensor_address("x", 0), "null"
        x, y = np.zeros((2, 64), np.float32), np.zeros((2, 24), np.float32)
        assert context.set_tensor_address("x", x.ctypes.data)
        assert context.set_tensor_address("y", y.ctypes.data)
        with (
            pytest.raises(RuntimeError, match="called once before capture"),
            host_cuda.graph(host_cuda.CUDAGraph(), stream=stream),
        ):
            context.execute_async_v3(stream.cuda_stream)
        with pytest.raises(TypeError, match="initialised"):
            context.profiler = object.__new__(trt.IProfiler)
    assert sum("enqueueV3" in line for line in log.errors) == 3
