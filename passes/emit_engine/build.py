"""Builds TensorRT engines from the finished ONNX files, dense and sparse, all in the same way.

There are three of them: the dense model, the sparse model with `SPARSE_WEIGHTS`, which lets the builder time sparse
tactics and take them where they are faster, and the sparse model without the flag, so that what the flag gains can be
told from other differences. They share a timing cache: a tactic that was timed for one engine is not timed again for
the next. Weights are never changed here, so there is no equivalent of `trtexec --sparsity=force`, which changes them.

TF32 is on, as it is by default in TensorRT and trtexec. It concerns only layers in float32, in all three engines.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Literal

from prox24_export.errors import Prox24Error, first_line
from prox24_export.option_values import Precision
from prox24_export.passes.emit_engine.capture_log import BuildLog, capture_log
from prox24_export.passes.emit_engine.tensorrt import import_tensorrt
from prox24_export.passes.emit_engine.versions import choose_builder_flags, find_generation
from prox24_export.shapes import ShapeRange

EngineKind = Literal["dense", "sparse", "sparse-off"]
TIMING_CACHE = "timing.cache"


class EngineBuildError(Prox24Error):
    """TensorRT built no engine.

    Attributes:
        reason: Why there is no engine, in one sentence.
        log: Everything that TensorRT said, as text.
    """

    def __init__(self, reason: str, place: Path, log: str) -> None:
        """Makes the error.

        Args:
            reason: Why there is no engine, in one sentence.
            place: File that the log was written to.
            log: The log itself.
        """
        super().__init__(f"{reason} All that it said is in {place}.")
        self.reason, self.log = reason, log


@dataclass(frozen=True)
class BuiltEngine:
    """One engine that was built, and what TensorRT said about it.

    Attributes:
        kind: Which of the three engines it is.
        engine: File of the serialised engine.
        log: File of the builder's log, VERBOSE lines included.
        layers: File of the inspector's JSON on every layer; None where the inspector failed.
        seconds: Wall time of the build in seconds.
        messages: The messages of the log one by one, without their prefix.
        notes: Sentences that the reader of the report should know.
    """

    kind: EngineKind
    engine: Path
    log: Path
    layers: Path | None
    seconds: float
    messages: tuple[str, ...] = field(repr=False, default=())
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltEngines:
    """The engines of a run.

    Attributes:
        engines: The engines `dense`, `sparse` and `sparse-off`, in this order.
    """

    engines: tuple[BuiltEngine, ...]


@dataclass(frozen=True)
class EmitEngines:
    """The pass that builds the engines, and its settings, which are the same for every engine of a run.

    Attributes:
        profile: Range of shapes of every input with dynamic axes, by name. Other inputs may be left out.
        precision: Precision of the ONNX files. It decides the names of the files and, for TensorRT 8 alone, a flag of
            the builder.
        workspace: Most bytes of scratch memory that a tactic may use. None lets it use all memory of the device, which
            is TensorRT's default.
        timing_cache: File with timings of earlier builds, which is read where it exists. None uses only timings of this
            run.
        optimization_level: TensorRT's builder optimization level, 0 to 5. None takes TensorRT's default of 3.
    """

    profile: Mapping[str, ShapeRange] = field(default_factory=dict)
    precision: Precision = "fp16"
    workspace: int | None = None
    timing_cache: Path | None = None
    optimization_level: int | None = None

    def call(self, *, dense: Path, sparse: Path, folder: Path) -> BuiltEngines:
        """Builds all three engines. The timing cache is written beside them.

        Args:
            dense: ONNX file of the dense model, in the types in which the engine computes.
            sparse: ONNX file of the sparse model, in the same types.
            folder: Folder for the files; it must exist.

        Raises:
            EngineBuildError: TensorRT cannot read a file or build an engine from it.
            UnavailableError: TensorRT cannot be imported, or is too old for the precision.
            OSError: A file cannot be written.
        """
        kinds: tuple[tuple[Path, EngineKind], ...] = ((dense, "dense"), (sparse, "sparse"), (sparse, "sparse-off"))
        built = BuiltEngines(tuple(self.emit_one(onnx, kind, folder) for onnx, kind in kinds))
        self.ensures(built)
        return built

    @staticmethod
    def ensures(built: BuiltEngines) -> None:
        """Expects the files of every engine to be there.

        Raises:
            FileNotFoundError: One is missing: something else has removed it.
        """
        for engine in built.engines:
            for file in (engine.engine, engine.log, engine.layers):
                if file is not None and not file.is_file():
                    raise FileNotFoundError(
                        f"{file} was written and is gone. Expected nobody else to write to its folder."
                    )

    def emit_one(self, onnx: Path, kind: EngineKind, folder: Path) -> BuiltEngine:
        """Builds one engine, and writes `KIND.PRECISION.engine`, `.build.log` and `.layers.json` to the folder.

        Each file appears whole or not at all. The log is written even if the build fails, and the engine even if
        TensorRT's inspector does.

        Raises:
            EngineBuildError: TensorRT cannot read `onnx` or build an engine from it.
            UnavailableError: TensorRT cannot be imported, or is too old for the precision.
            OSError: A file cannot be written.
        """
        stem = f"{kind}.{self.precision}"
        places = {what: folder / f"{stem}.{what}" for what in ("engine", "build.log", "layers.json")}
        started = time.perf_counter()
        with capture_log() as log:
            try:
                plan = _build(onnx, folder, self, sparse_weights=kind == "sparse")
            except Exception as error:
                write_whole(places["build.log"], log.text.encode())
                if isinstance(error, Prox24Error):
                    raise
                raise _make_build_error(onnx, places["build.log"], log, error) from error
            seconds = time.perf_counter() - started
            write_whole(places["engine"], plan)
            layers, notes = _inspect(plan, places["layers.json"])
        write_whole(places["build.log"], log.text.encode())
        return BuiltEngine(kind, places["engine"], places["build.log"], layers, seconds, tuple(log.messages), notes)


def _inspect(plan: Any, place: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Writes what the inspector says to `place`, and returns the file and sentences that the report's reader needs.

    An engine is worth what it computes: where the inspector fails, there is no file, and a sentence says why.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        layers = read_layer_information(plan)
        notes = _find_oddities(layers)
    except Exception as error:  # noqa: BLE001 - TensorRT's and Polygraphy's own
        return None, (f"TensorRT's inspector failed, so that layers are judged by the log alone: {first_line(error)}",)
    write_whole(place, layers.encode())
    return place, notes


def read_layer_information(plan: Any) -> str:
    """Reads what TensorRT's inspector says about every layer of an engine, as JSON text.

    Args:
        plan: The serialised engine: bytes, or TensorRT's own host memory.

    Raises:
        Exception: TensorRT cannot read the engine; the error is Polygraphy's.
    """
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415 (optional)

    trt = import_tensorrt()
    engine = EngineFromBytes(plan)()
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def write_whole(place: Path, contents: Any) -> None:
    """Writes bytes, or anything with a buffer, to `place`. On failure the file there stays as it was.

    Raises:
        OSError: The file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as work:
        copy = Path(work) / place.name
        copy.write_bytes(contents)
        copy.replace(place)


def _build(onnx: Path, folder: Path, settings: EmitEngines, *, sparse_weights: bool) -> Any:
    """Builds an engine, serialised in TensorRT's own memory. New timings are added to the timing cache in `folder`."""
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath  # noqa: PLC0415

    trt = import_tensorrt()
    limits = None if settings.workspace is None else {trt.MemoryPoolType.WORKSPACE: settings.workspace}
    network = NetworkFromOnnxPath(str(onnx), strongly_typed=find_generation(trt.__version__).strongly_typed)
    with _work_on_timing_cache(folder / TIMING_CACHE, settings.timing_cache) as cache:
        config = CreateConfig(
            sparse_weights=sparse_weights,
            profiles=[_make_profile(settings.profile)],
            load_timing_cache=str(cache) if cache.is_file() else None,
            memory_pool_limits=limits,
            profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
            builder_optimization_level=settings.optimization_level,
            tf32=True,
            **choose_builder_flags(trt.__version__, settings.precision),
        )
        return EngineBytesFromNetwork(network, config, save_timing_cache=str(cache))()


@contextmanager
def _work_on_timing_cache(place: Path, earlier: Path | None) -> Iterator[Path]:
    """Gives a copy of the timing cache to work on. It replaces the cache when the block ends without an error.

    Polygraphy writes in place, and leaves a lock file beside what it reads and writes.
    """
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as work:
        copy = Path(work) / place.name
        known = next((file for file in (place, earlier) if file is not None and file.is_file()), None)
        if known is not None:
            copy.write_bytes(known.read_bytes())
        yield copy
        if copy.is_file():
            copy.replace(place)


def _make_profile(ranges: Mapping[str, ShapeRange]) -> Any:
    from polygraphy.backend.trt import Profile  # noqa: PLC0415 (optional)

    profile = Profile()
    for name, shapes in ranges.items():
        profile.add(escape(name), shapes.min, shapes.opt, shapes.max)  # Polygraphy reads names as globs
    return profile


def _find_oddities(layers: str) -> tuple[str, ...]:
    """Sentences on what the inspector's JSON lacks, because the diagnosis of engines reads it."""
    row = find_generation(import_tensorrt().__version__)
    try:
        document = json.loads(layers)
    except ValueError as error:
        return (f"TensorRT's layer information is no JSON: {first_line(error)}",)
    if not isinstance(document, dict) or "Layers" not in document or row.io_tensors not in document:
        return (f"TensorRT's layer information lacks 'Layers' or {row.io_tensors!r}, which {row.major}.x writes",)
    if not all(isinstance(layer, dict) for layer in document["Layers"]):
        return ("TensorRT's layer information names layers without their tactics",)
    return ()


def _make_build_error(onnx: Path, place: Path, log: BuildLog, error: Exception) -> EngineBuildError:
    why = log.complaint or first_line(error)
    return EngineBuildError(f"TensorRT built no engine from {onnx}: {why}", place, log.text)
