"""From ONNX files to engines, log and layer information, through Polygraphy's loaders and the stand-in for TensorRT.

The stand-in refuses calls out of order and of the wrong type (`test_standin.py`). What it claims of TensorRT's
interface is held against the real bindings (`tests/engines/tensorrt/test_bindings.py`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from prox24_export.engines.tensorrt.cuda_device import CudaDevice
from prox24_export.engines.tensorrt.session import TrtSession
from prox24_export.errors import UnavailableError
from prox24_export.passes.emit_engine.build import (
    BuiltEngine,
    EmitEngines,
    EngineBuildError,
)
from prox24_export.passes.emit_engine.capture_log import capture_log
from prox24_export.shapes import ShapeRange
from tests.engines.tensorrt.trt_models import NARROW, RANGE, SETTINGS, VERSIONS, WIDE, model, rows, standin


@pytest.fixture
def old() -> Iterator[ModuleType]:
    with standin("8.6.1") as module:
        yield module


def tactics(engine: BuiltEngine) -> dict[str, bool]:
    """Whether each layer of the engine has a sparse tactic, by its ONNX node."""
    assert engine.layers is not None
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
        engine = SETTINGS.emit_one(file, "sparse", tmp_path)
    with pytest.raises(AssertionError):
        expect_sparse(engine)


def test_a_network_of_ten_is_strongly_typed_or_it_computes_in_float32(trt: ModuleType, tmp_path: Path) -> None:
    """The stand-in's older generation finds no fp16 layer in a network without the flag, as TensorRT finds none."""
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile  # noqa: PLC0415

    file = model(tmp_path / "s.onnx", sparse=True)
    with capture_log() as log:
        profile = Profile().add("x", *((1, 64),) * 3)
        config = CreateConfig(sparse_weights=True, profiles=[profile])
        EngineBytesFromNetwork(NetworkFromOnnxPath(str(file)), config)()
    assert any("Found 0 layer(s)" in line for line in log.lines) == (trt.__version__ == VERSIONS[0])
    expect_sparse(SETTINGS.emit_one(file, "sparse", tmp_path))


def test_files_are_whole_and_nothing_else_is_left(built: tuple[BuiltEngine, ...]) -> None:
    folder = built[0].engine.parent
    parts = ("build.log", "engine", "layers.json")
    wanted = {f"{kind}.fp16.{part}" for kind in ("dense", "sparse", "sparse-off") for part in parts} | {"timing.cache"}
    assert {place.name for place in folder.iterdir()} == wanted
    (folder / "plain").touch()
    assert len({place.stat().st_mode for place in folder.iterdir()}) == 1, "access as of any new file"
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
    again = replace(SETTINGS, timing_cache=cache, optimization_level=5).emit_one(
        tmp_path / "s.onnx", "sparse", tmp_path / "later"
    )
    assert f"Found tactics of {WIDE} in the timing cache" in again.messages
    assert cache.read_bytes() == before, "the earlier cache is the user's"
    assert sorted(place.name for place in cache.parent.iterdir() if "lock" in place.name) == []


def test_nothing_is_printed_and_polygraphys_logger_is_as_before(
    trt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415 (known only with the stand-in)

    names = ("use_python_logging_system", "module_severity", "colors", "letter", "once_logged")
    before = [getattr(G_LOGGER, name) for name in names]
    # Polygraphy prints, once, that it cannot print in colours.
    monkeypatch.setattr(import_module("polygraphy.logger.logger"), "COLORED_MODULE_PRESENT", None)
    engine = SETTINGS.emit_one(model(tmp_path / "s.onnx", sparse=True), "sparse", tmp_path)
    TrtSession("s", engine.engine, {"x": rows()}, device=CudaDevice("cpu")).times(2)
    assert capfd.readouterr() == ("", "")
    assert [getattr(G_LOGGER, name) for name in names] == before


def test_every_log_has_the_warnings_of_its_build(built: tuple[BuiltEngine, ...]) -> None:
    for engine in built:
        assert engine.log.read_text().count("[W] [TRT] Detected layers that a stand-in cannot fuse.") == 1


def test_the_log_reads_as_trtexecs(built: tuple[BuiltEngine, ...]) -> None:
    builder_log = pytest.importorskip("prox24_export.engines.diagnosis.builder_log")
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
    before = SETTINGS.emit_one(file, "sparse", tmp_path).engine.read_bytes()
    spoil(file)
    with pytest.raises(EngineBuildError, match=rf"built no engine from .*s\.onnx: .*{complaint}.*build\.log") as caught:
        SETTINGS.emit_one(file, "sparse", tmp_path)
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
        EmitEngines(profile={"x": wrong}).emit_one(file, "dense", tmp_path)
    with pytest.raises(EngineBuildError, match="Invalid inputs were provided"):
        EmitEngines(profile=RANGE | {"other": wrong}).emit_one(file, "dense", tmp_path)
    assert not list(tmp_path.glob("*.engine"))


def test_a_name_with_the_signs_of_a_glob_is_a_name(trt: ModuleType, tmp_path: Path) -> None:
    del trt
    file = model(tmp_path / "s.onnx", sparse=True)
    proto = onnx.load(file)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "x[0]*"
    onnx.save(proto, file)
    engine = EmitEngines(profile={"x[0]*": RANGE["x"]}).emit_one(file, "sparse", tmp_path)
    opened = TrtSession("s", engine.engine, {"x[0]*": rows(8)}, device=CudaDevice("cpu"))
    assert opened.outputs()["y"].shape == (8, 24)


def test_names_without_tactics_are_noted(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt, "ProfilingVerbosity", SimpleNamespace(DETAILED=trt.ProfilingVerbosity.LAYER_NAMES_ONLY))
        engine = SETTINGS.emit_one(model(tmp_path / "s.onnx", sparse=True), "sparse", tmp_path)
    assert engine.notes == ("TensorRT's layer information names layers without their tactics",)


def test_eight_builds_fp16_by_its_flag_and_says_so_in_its_own_words(old: ModuleType, tmp_path: Path) -> None:
    del old
    engine = SETTINGS.emit_one(model(tmp_path / "s.onnx", sparse=True, half=False), "sparse", tmp_path)
    assert tactics(engine) == {WIDE: True, NARROW: False}
    assert sparsity(engine) == [
        f"Layers eligible for sparse math: {WIDE}, {NARROW}",
        f"TRT inference plan picked sparse implementation for layers: {WIDE}",
    ]
    with pytest.raises(UnavailableError, match=r"8\.6\.1 cannot build bf16 engines"):
        replace(SETTINGS, precision="bf16").emit_one(tmp_path / "s.onnx", "sparse", tmp_path)
