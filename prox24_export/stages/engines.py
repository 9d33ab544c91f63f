"""Engines of the written models: built and timed, or the reason why nothing was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prox24_export.data.batches import join_samples
from prox24_export.data.checked_arrays import can_join
from prox24_export.data.random_samples import draw_random
from prox24_export.engines.estimate import estimate
from prox24_export.engines.timing import gpu_state
from prox24_export.engines.timing.gpu_watch import Watch, follow_state
from prox24_export.errors import InputError, Prox24Error, describe_fault, first_line
from prox24_export.output.place import make_scratch
from prox24_export.passes.emit_engine.build import EngineBuildError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.runtime import shorten_message
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.precision.quantised import find_quantised_products
from prox24_export.passes.quantise.quantise import Quantised
from prox24_export.results.engine import EngineReport, Estimate
from prox24_export.results.report import LayerReport
from prox24_export.shapes import ShapeRange, complete_ranges
from prox24_export.stages.lower import (
    CALIBRATION_BATCHES,
    INT8_SAMPLES,
    LoweredPair,
    lower,
    measure_lowered,
    measure_quantised,
)
from prox24_export.stages.prepare import Job
from prox24_export.stages.run import Run
from prox24_export.stages.samples import describe_shapes
from prox24_export.stages.write import WrittenModel
from prox24_export.validation.perplexity import find_token_input

MOST_TIMED = 32  # samples of the larger batch that is timed where no shapes are given
ENGINES = "engines"
ENGINES_FAILED = EngineReport("none", not_measured="building or timing engines failed.")
NOTHING_SPARSE = EngineReport("none", not_measured="no layer is sparse: both models are the same.")


@dataclass(frozen=True)
class FinishedPair:
    """The finished pair that engines are made of.

    Attributes:
        folder: The output folder, as long as it is not in place.
        sparse: The sparse model.
        dense_onnx: The dense model as an ONNX file; None where there is none.
        sparse_onnx: The sparse one.
        rows: The report's layers.
    """

    folder: Path
    sparse: TracedGraph
    dense_onnx: Path | None
    sparse_onnx: Path | None
    rows: Sequence[LayerReport]

    @property
    def pruned(self) -> list[str]:
        """Names of pruned weights."""
        return [row.weight for row in self.rows if row.state == "sparse" and row.weight is not None]


def estimate_gain(job: Job, rows: Sequence[LayerReport], timed: Sequence[Feeds], run: Run) -> Estimate | None:
    """Estimates what the pruned layers could gain at best in a call with the first batch; None where there is none."""
    if not timed or not job.linears:
        return None
    sparse = {row.name for row in rows if row.state == "sparse"}
    with run.timed("estimate"):
        return estimate(job.graph, job.found, sparse, timed[0])


def measure_engines(  # noqa: PLR0917 - in the order in which they were found
    job: Job,
    written: WrittenModel,
    rows: Sequence[LayerReport],
    timed: Sequence[Feeds],
    evaluation: Sequence[tuple[Feeds, Array | None]],
    run: Run,
) -> EngineReport:
    """Builds and times the engines of a written model; see `run_engines`.

    Args:
        job: What was run.
        written: What it has written.
        rows: The report's layers.
        timed: Inputs by name; one point of the latency each.
        evaluation: Batches that the accuracy of converted files is measured on.
        run: Takes the time, and what conversion has to say.

    Raises:
        Prox24Error: The engine that was asked for cannot build or run the model.
        OSError: A file cannot be written.
    """
    with run.timed("engines"), make_scratch(written.folder) as scratch:
        finished = FinishedPair(written.folder, written.sparse, *written.onnx_files(job, scratch), rows)
        try:
            engine = run_engines(job, finished, timed, evaluation) if finished.pruned else NOTHING_SPARSE
        except EngineBuildError as error:  # its log stays in the output folder
            raise Prox24Error(_say_where(error, job, finished)) from error
    run.warnings.extend(engine.notes)
    return engine


def run_engines(
    job: Job,
    finished: FinishedPair,
    timed: Sequence[Feeds],
    evaluation: Sequence[tuple[Feeds, Array | None]] = (),
) -> EngineReport:
    """Builds and times with the chosen engine.

    Where it was chosen by `auto` and fails, the run goes on without a figure, and the report says why.

    Args:
        job: What was run.
        finished: Its finished pair.
        timed: Inputs by name; one point of the latency each.
        evaluation: Batches that the accuracy of converted files is measured on.

    Raises:
        EngineBuildError: The engine that was asked for cannot be built.
        Prox24Error: It cannot run the model.
    """
    lenient = job.settings.engine == "auto" and job.settings.min_speedup is None and not job.choice.writes_files
    try:
        return _measure(job, finished, timed, evaluation)
    except Exception as error:
        if not lenient:
            raise
        told = isinstance(error, EngineBuildError)
        return _report_failure(job, _say_where(error, job, finished) if told else first_line(error))


def _say_where(error: Exception, job: Job, finished: FinishedPair) -> str:
    """The message of an error, with the names that files have when the output folder is in place."""
    return str(error).replace(str(finished.folder), str(job.target))


def _report_failure(job: Job, why: str) -> EngineReport:
    return EngineReport("none", precision=job.choice.precision, not_measured=f"{job.choice.engine} failed: {why}")


def draw_timed_batches(job: Job, run: Run) -> list[Feeds]:
    """Draws the inputs that are timed: of the smallest, likeliest and largest shapes where shapes are given.

    Without given shapes they are one sample, and as many samples as are joined in one call, 32 at most.

    Raises:
        InputError: The shapes given fit no input, or the model cannot be run on them.
    """
    with run.timed("data"):
        return _draw_batches(job)


def _draw_batches(job: Job) -> list[Feeds]:
    ranges = job.settings.ranges
    if ranges:
        sides = [{name: getattr(shapes, side) for name, shapes in ranges.items()} for side in ("min", "opt", "max")]
        distinct = [shapes for index, shapes in enumerate(sides) if shapes not in sides[:index]]
        graph, seed = job.graph, job.settings.seed
        drawn = [draw_random(graph.inputs, graph.gathered_rows, shapes, 1, seed)[0].feeds for shapes in distinct]
        _expect_runs(graph, drawn)
        return drawn
    samples = job.parts.report or job.parts.fit
    sizes = dict.fromkeys((1, min(job.size, len(samples), MOST_TIMED))) if can_join(job.graph.inputs) else (1,)
    groups = (next(join_samples(samples, job.graph.inputs, size), None) for size in sizes if size)
    return [group[0] for group in groups if group is not None]


def _expect_runs(graph: TracedGraph, batches: Sequence[Feeds]) -> None:
    """Raises InputError where the model cannot be run on one of the shapes given."""
    run = graph.runner()
    for batch in batches:
        try:
            run(batch)
        except Exception as error:
            raise InputError(
                f"--shapes: {graph.path} cannot be run on {describe_shapes(batch)}: {shorten_message(error)}. "
                "Give shapes that it takes."
            ) from error


def _measure(
    job: Job,
    finished: FinishedPair,
    timed: Sequence[Feeds],
    evaluation: Sequence[tuple[Feeds, Array | None]],
) -> EngineReport:
    files = _lower_pair(job, finished)
    report = _measure_latency(job, finished, files, timed)
    if files is None or files.lowered is None or finished.dense_onnx is None:
        return report
    names = {"dense onnx": files.dense.name, "sparse onnx": files.sparse.name}
    report = replace(
        report,
        files={what: f"{ENGINES}/{name}" for what, name in (names | report.files).items()},
        kept_in_fp32=dict(files.lowered.kept_in_fp32),
        notes=files.lowered.notes,
    )
    if isinstance(files.lowered, Quantised):
        floats = dict(files.lowered.float_outputs)
        report = replace(report, float_outputs=floats, sizes=_find_sizes(finished, files), scales=dict(files.scales))
    try:
        return _add_accuracy(job, OnnxGraph(finished.dense_onnx), files, evaluation, report)
    except Exception as error:  # noqa: BLE001 - what was timed stands
        said = f"the accuracy of {files.sparse.name} was not measured: {describe_fault(error)}."
        return replace(report, notes=(*report.notes, said))


def _find_sizes(finished: FinishedPair, files: LoweredPair) -> dict[str, int]:
    """Bytes on disk of the pair in float32 and converted, external data included."""
    kinds = {"dense onnx": files.dense, "sparse onnx": files.sparse}
    kinds |= {"dense float": _expect(finished.dense_onnx), "sparse float": _expect(finished.sparse_onnx)}
    return {kind: sum(file.stat().st_size for file in _list_files(path)) for kind, path in kinds.items()}


def _list_files(path: Path) -> list[Path]:
    return [path, *OnnxGraph(path).external_files]


def _lower_pair(job: Job, finished: FinishedPair) -> LoweredPair | None:
    """The converted pair, where TensorRT is to build it or the user asked for it."""
    if finished.dense_onnx is None or finished.sparse_onnx is None:
        return None
    choice = job.choice
    if choice.engine != "tensorrt" and not choice.writes_files:
        return None
    quantises = choice.precision == "int8"
    most = INT8_SAMPLES if quantises else CALIBRATION_BATCHES * job.size
    fit, choosing = (
        [feeds for feeds, _ in join_samples(part[:most], job.graph.inputs, job.size)]
        for part in (job.parts.fit, job.parts.choice if quantises else ())
    )
    return lower(
        finished.dense_onnx,
        finished.sparse_onnx,
        finished.pruned,
        finished.folder / ENGINES,
        precision=choice.precision,
        feeds=fit,
        held_back=choosing,
    )


def _measure_latency(
    job: Job, finished: FinishedPair, files: LoweredPair | None, batches: Sequence[Feeds]
) -> EngineReport:
    choice = job.choice
    if choice.engine == "tensorrt" and files is not None:
        return _measure_tensorrt(job, finished, files, batches)
    if choice.engine == "torch":
        from prox24_export.engines.torch_sparse import measure as torch_sparse  # noqa: PLC0415 (needs a GPU)

        with watch_gpu() as watch:
            return torch_sparse.bench(job.graph, finished.sparse, batches, precision=choice.precision, watch=watch)
    if choice.engine == "onnxruntime" and finished.dense_onnx is not None and finished.sparse_onnx is not None:
        from prox24_export.engines import onnxruntime  # noqa: PLC0415 (only where asked for)

        return onnxruntime.bench(finished.dense_onnx, finished.sparse_onnx, batches)
    return EngineReport("none", precision=choice.precision if files else "", not_measured=choice.why_not)


def _measure_tensorrt(job: Job, finished: FinishedPair, files: LoweredPair, batches: Sequence[Feeds]) -> EngineReport:
    from prox24_export.engines.diagnosis.pruned_layers import list_pruned_layers  # noqa: PLC0415
    from prox24_export.engines.tensorrt.measure import ModelPair, bench  # noqa: PLC0415 (optional)
    from prox24_export.passes.emit_engine.build import EmitEngines  # noqa: PLC0415

    settings = job.settings
    precision = job.choice.precision
    kept = files.lowered.kept_in_fp32 if files.lowered else {}
    types: dict[str, Literal["fp32", "int8"]] = dict.fromkeys(kept, "fp32")
    int8, follows = find_quantised_products(OnnxGraph(files.sparse))
    if isinstance(files.lowered, Quantised) and files.lowered.converted:
        follows |= int8 - files.lowered.float_outputs.keys()
    layers = list_pruned_layers(
        [row for row in finished.rows if row.state == "sparse"],
        files.layers,
        "fp32" if precision == "int8" else precision,
        overrides=types | dict.fromkeys(int8, "int8"),
        quantised_outputs={name: name in follows for name in int8},
    )
    dense, sparse = _expect(finished.dense_onnx), _expect(finished.sparse_onnx)
    if precision == "int8":  # what an engine makes of integers is compared with the same integers
        dense, sparse = files.dense, files.sparse
    references = OnnxGraph(dense), OnnxGraph(sparse)
    build = EmitEngines(
        profile=make_profile(references[0], settings.ranges, batches),
        precision=precision,
        workspace=None if settings.workspace_mb is None else settings.workspace_mb << 20,
        timing_cache=None if settings.timing_cache is None else Path(settings.timing_cache),
    )
    place = finished.folder / ENGINES
    place.mkdir(exist_ok=True)
    with watch_gpu() as watch:
        pair = ModelPair(files.dense, files.sparse, references, layers)
        return bench(pair, batches, place, build, watch=watch)


def make_profile(graph: OnnxGraph, given: dict[str, ShapeRange], batches: Sequence[Feeds]) -> dict[str, ShapeRange]:
    """Makes the optimisation profile: a given range of an input, else from the smallest to the largest timed batch."""
    declared = {
        value.name: [size if isinstance(size, int) else None for size in value.shape or ()] for value in graph.inputs
    }
    seen = dict(given)
    for name in declared.keys() - given.keys():
        shapes = [tuple(batch[name].shape) for batch in batches if name in batch]
        if shapes and len({len(shape) for shape in shapes}) == 1:
            low = tuple(min(sizes) for sizes in zip(*shapes, strict=True))
            high = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
            seen[name] = ShapeRange(low, shapes[-1], high)
    return complete_ranges(seen, declared, {})


def _add_accuracy(
    job: Job,
    dense: OnnxGraph,
    files: LoweredPair,
    evaluation: Sequence[tuple[Feeds, Array | None]],
    report: EngineReport,
) -> EngineReport:
    """Adds the accuracy of the sparse converted file; in INT8 also that of the dense one, and intervals."""
    if not evaluation:
        return report
    token, samples = find_token_input(job.graph), len(job.parts.report)
    if not isinstance(files.lowered, Quantised):
        return replace(report, accuracy=measure_lowered(dense, files.sparse, evaluation, samples, token).sparse)
    seen = measure_quantised(dense, files.sparse, evaluation, samples, token)
    alone = measure_quantised(dense, files.dense, evaluation, samples, token)
    return replace(report, accuracy=seen.sparse, dense_accuracy=alone.sparse, changes=seen.changes)


def _expect(path: Path | None) -> Path:
    if path is None:
        raise TypeError("TensorRT builds from ONNX files; `choice.choose_engine` refuses it where there are none.")
    return path


@contextmanager
def watch_gpu() -> Iterator[Watch | None]:
    """Reads the GPU's state beside the timing; None where it cannot be read."""
    with follow_state(gpu_state.find_current_gpu()) as (watch, _note):
        yield watch
