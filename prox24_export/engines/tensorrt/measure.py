"""Both models as TensorRT engines: built the same way, diagnosed layer by layer, timed in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prox24_export.engines.diagnosis import builder_log, diagnosis, inspector
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.tensorrt.session import TrtSession
from prox24_export.engines.timing import gpu_state
from prox24_export.engines.timing.agreement import TOLERANCE
from prox24_export.engines.timing.gpu_state import GpuState
from prox24_export.engines.timing.gpu_watch import watching
from prox24_export.engines.timing.latency import Procedure, Reference, measure
from prox24_export.passes.emit_engine.build import TIMING_CACHE, BuiltEngine, EmitEngines
from prox24_export.passes.emit_engine.tensorrt import require_tensorrt
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.results.engine import EngineReport, LatencyPoint, LayerTime

PROFILED_RUNS = 50


@dataclass(frozen=True)
class ModelPair:
    """What is built: ONNX files in the types to compute in, and the same models in float32.

    Attributes:
        dense: File of the dense model.
        sparse: File of the sparse model.
        references: Dense and sparse model that tell what must be computed.
        layers: Pruned layers of `sparse`.
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
    """Builds three engines into `folder`, tells the states of every pruned layer, and times every batch.

    Args:
        pair: The models.
        batches: Inputs by name; one point each.
        folder: Where engines, logs and layer information go; it is there.
        settings: Of the builder.
        procedure: How long and how often.
        watch: Reads the GPU's state.

    Raises:
        UnavailableError: TensorRT is not here.
        EngineBuildError: It builds no engine.
        EngineRunError: It cannot run one.
        InputError: A batch does not fit the engines.
    """
    known = require_tensorrt()
    built = settings.call(dense=pair.dense, sparse=pair.sparse, folder=folder).engines
    log = builder_log.parse_messages(built[1].messages)
    states, disagreements = diagnosis.diagnose(pair.layers, log, inspector.parse(built[1].layers.read_text("utf-8")))
    doubts = (*log.problems, *log.warnings, *(f"{one.kind}: {note}" for one in built for note in one.notes))
    return EngineReport(
        engine="tensorrt",
        version=known.version,
        precision=settings.precision,
        device=known.device,
        not_measured="" if batches else "there was no sample to run.",
        files=_files(built, folder),
        layers=states,
        disagreements=(*disagreements, *doubts),
        latency=tuple(_point(pair, built, batch, settings.precision, procedure, watch) for batch in batches),
        layer_times=_layer_times(built, batches[0]) if batches else (),
    )


NO_REFERENCE = (
    "outputs were compared with nothing, as engines do not tell what they should compute: give ONNX files to have them "
    "checked"
)


def bench_engines(dense: Path, sparse: Path, batches: Sequence[Feeds], precision: str) -> EngineReport:
    """Times two engines as they are, in turns.

    Args:
        dense: Serialised engine.
        sparse: Serialised engine.
        batches: Inputs by name; one point each.
        precision: As the report calls it.

    Raises:
        UnavailableError: TensorRT is not here.
        EngineRunError: It cannot run an engine.
        InputError: A batch does not fit the engines.
    """
    known = require_tensorrt()
    with watching(gpu_state.visible()) as (watch, _note):
        points = tuple(_plain_point(dense, sparse, batch, watch) for batch in batches)
    return EngineReport("tensorrt", known.version, precision, known.device, latency=points)


def _plain_point(dense: Path, sparse: Path, batch: Feeds, watch: Callable[[], GpuState] | None) -> LatencyPoint:
    left, right = TrtSession("dense", dense, batch), TrtSession("sparse", sparse, batch)
    try:
        return measure(
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


def _files(built: Sequence[BuiltEngine], folder: Path) -> dict[str, str]:
    files = {f"{one.kind} {what}": place.name for one in built for what, place in _places(one).items()}
    cache = folder / TIMING_CACHE
    return files | ({"timing cache": cache.name} if cache.is_file() else {})


def _places(built: BuiltEngine) -> dict[str, Path]:
    return {"engine": built.engine, "build log": built.log, "layers": built.layers}


def _point(  # noqa: PLR0917 (one point's facts)
    pair: ModelPair,
    built: Sequence[BuiltEngine],
    batch: Feeds,
    precision: str,
    procedure: Procedure | None,
    watch: Callable[[], GpuState] | None,
) -> LatencyPoint:
    """Dense, sparse, and sparse with the flag off, on one batch."""
    sessions: list[TrtSession] = []
    try:
        for one in built:
            sessions.append(TrtSession(one.kind, one.engine, batch))  # noqa: PERF401 (what is open must be closed)
        dense, sparse, flag_off = sessions
        return measure(
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


def _layer_times(built: Sequence[BuiltEngine], batch: Feeds) -> tuple[LayerTime, ...]:
    """Of a profiled run of its own, dense and sparse; layers are paired by name."""
    times = [_profiled(one, batch) for one in built[:2]]
    names = dict.fromkeys(name for seen in times for name in seen)
    return tuple(LayerTime(name, times[0].get(name), times[1].get(name)) for name in names)


def _profiled(built: BuiltEngine, batch: Feeds) -> Mapping[str, float]:
    session = TrtSession(built.kind, built.engine, batch, graph=False)
    try:
        return session.layer_times(PROFILED_RUNS)
    finally:
        session.close()
