"""Both models as TensorRT engines: built the same way, diagnosed layer by layer, timed in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prox24_export.engines.diagnosis import builder_log, diagnosis, inspector
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.tensorrt.session import TrtSession
from prox24_export.engines.timing import gpu_state
from prox24_export.engines.timing.agreement import TOLERANCE
from prox24_export.engines.timing.gpu_state import GpuState
from prox24_export.engines.timing.gpu_watch import follow_state
from prox24_export.engines.timing.latency import Procedure, Reference, measure_latency
from prox24_export.errors import InputError
from prox24_export.passes.emit_engine.build import TIMING_CACHE, BuiltEngine, EmitEngines
from prox24_export.passes.emit_engine.tensorrt import require_tensorrt
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.results.engine import EngineReport, LatencyPoint, LayerTime

PROFILED_RUNS = 50


@dataclass(frozen=True)
class ModelPair:
    """What engines are built from: ONNX files in the types to compute in, and the same models in float32.

    Attributes:
        dense: The file of the dense model.
        sparse: The file of the sparse model.
        references: The dense and the sparse model in float32, which say what the engines must compute.
        layers: The pruned layers of `sparse`.
    """

    dense: Path
    sparse: Path
    references: tuple[OnnxGraph, OnnxGraph]
    layers: Sequence[PrunedLayer]


def bench(
    pair: ModelPair,
    batches: Sequence[Feeds],
    folder: Path,
    settings: EmitEngines,
    *,
    procedure: Procedure | None = None,
    watch: Callable[[], GpuState] | None = None,
) -> EngineReport:
    """Builds three engines into `folder`, diagnoses every pruned layer, and times every batch.

    Args:
        pair: The models.
        batches: The inputs by name of each batch, which gives one latency point.
        folder: The existing folder for engines, logs and layer information.
        settings: The settings of the builder.
        procedure: How long and how often to measure; the defaults where None.
        watch: Returns the GPU's state; None where it cannot be read.

    Raises:
        UnavailableError: TensorRT cannot be used here.
        EngineBuildError: TensorRT cannot build an engine.
        EngineRunError: TensorRT cannot run an engine.
        InputError: A batch does not fit the engines.
    """
    known = require_tensorrt()
    built = settings.call(dense=pair.dense, sparse=pair.sparse, folder=folder).engines
    log = builder_log.parse_messages(built[1].messages)
    inspected, unread = _read_layers(built[1])
    states, disagreements = diagnosis.diagnose(pair.layers, log, inspected)
    doubts = (*unread, *log.problems, *log.warnings, *(f"{one.kind}: {note}" for one in built for note in one.notes))
    return EngineReport(
        engine="tensorrt",
        version=known.version,
        precision=settings.precision,
        device=known.device,
        not_measured="" if batches else "there was no sample to run.",
        files=_list_files(built, folder),
        layers=states,
        disagreements=(*disagreements, *doubts),
        latency=tuple(_time_batch(pair, built, batch, settings.precision, procedure, watch) for batch in batches),
        layer_times=_time_layers(built, batches[0]) if batches else (),
    )


def _read_layers(built: BuiltEngine) -> tuple[tuple[EngineLayer, ...] | None, tuple[str, ...]]:
    """Reads the layers that the inspector tells of; None, and a sentence that says why, where it cannot be read."""
    if built.layers is None:
        return None, ()  # the engine's own notes say why
    try:
        return inspector.parse(built.layers.read_text("utf-8")), ()
    except InputError as error:
        return None, (f"{built.kind}: {error}",)


NO_REFERENCE = (
    "outputs were compared with nothing, as engines do not tell what they should compute: give ONNX files to have them "
    "checked"
)


def bench_engines(dense: Path, sparse: Path, batches: Sequence[Feeds], precision: str) -> EngineReport:
    """Times two engines as they are, in turns.

    Args:
        dense: The file of the dense engine.
        sparse: The file of the sparse engine.
        batches: The inputs by name of each batch, which gives one latency point.
        precision: The precision that the report names.

    Raises:
        UnavailableError: TensorRT cannot be used here.
        EngineRunError: TensorRT cannot run an engine.
        InputError: A batch does not fit the engines.
    """
    known = require_tensorrt()
    with follow_state(gpu_state.find_current_gpu()) as (watch, _note):
        points = tuple(_time_engines(dense, sparse, batch, watch) for batch in batches)
    return EngineReport("tensorrt", known.version, precision, known.device, latency=points)


def _time_engines(dense: Path, sparse: Path, batch: Feeds, watch: Callable[[], GpuState] | None) -> LatencyPoint:
    left, right = TrtSession("dense", dense, batch), TrtSession("sparse", sparse, batch)
    try:
        return measure_latency(
            left,
            right,
            None,
            {name: tuple(array.shape) for name, array in batch.items()},
            reference=Reference(left.outputs(), right.outputs(), TOLERANCE["fp16"]),
            watch=watch,
            warnings=[NO_REFERENCE, *(f"{one.name}: {note}" for one in (left, right) for note in one.notes)],
        )
    finally:
        left.close()
        right.close()


def _list_files(built: Sequence[BuiltEngine], folder: Path) -> dict[str, str]:
    files = {f"{one.kind} {what}": place.name for one in built for what, place in _list_places(one).items()}
    cache = folder / TIMING_CACHE
    return files | ({"timing cache": cache.name} if cache.is_file() else {})


def _list_places(built: BuiltEngine) -> dict[str, Path]:
    places = {"engine": built.engine, "build log": built.log, "layers": built.layers}
    return {what: place for what, place in places.items() if place is not None}


def _time_batch(  # noqa: PLR0917 (one point's facts)
    pair: ModelPair,
    built: Sequence[BuiltEngine],
    batch: Feeds,
    precision: str,
    procedure: Procedure | None,
    watch: Callable[[], GpuState] | None,
) -> LatencyPoint:
    """Times one batch on three engines: dense, sparse, and sparse without SPARSE_WEIGHTS."""
    sessions: list[TrtSession] = []
    try:
        for one in built:
            sessions.append(TrtSession(one.kind, one.engine, batch))  # noqa: PERF401 (what is open must be closed)
        dense, sparse, flag_off = sessions
        return measure_latency(
            dense,
            sparse,
            flag_off,
            {name: tuple(array.shape) for name, array in batch.items()},
            reference=Reference.of(*pair.references, batch, precision),
            procedure=procedure,
            watch=watch,
            warnings=[f"{session.name}: {note}" for session in sessions for note in session.notes],
        )
    finally:
        for session in sessions:
            session.close()


def _time_layers(built: Sequence[BuiltEngine], batch: Feeds) -> tuple[LayerTime, ...]:
    """Times the layers of the dense and the sparse engine in a profiled run of their own, and pairs them by name."""
    times = [_profile(one, batch) for one in built[:2]]
    names = dict.fromkeys(name for seen in times for name in seen)
    return tuple(LayerTime(name, times[0].get(name), times[1].get(name)) for name in names)


def _profile(built: BuiltEngine, batch: Feeds) -> Mapping[str, float]:
    session = TrtSession(built.kind, built.engine, batch, graph=False)
    try:
        return session.layer_times(PROFILED_RUNS)
    finally:
        session.close()
