"""`prox24-export bench DENSE SPARSE`: a latency benchmark of two models that are there already."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from prox24_export.data.array_files import read_arrays
from prox24_export.data.batches import join_samples
from prox24_export.data.checked_arrays import can_join
from prox24_export.data.random_samples import draw_random
from prox24_export.data.sample_groups import LABELS
from prox24_export.data.sample_list import Sample, select_samples
from prox24_export.data.samples import Parts, read_samples
from prox24_export.engines.choice import EngineChoice, EngineRequest, choose_engine
from prox24_export.errors import InputError, Prox24Error
from prox24_export.facts import machine
from prox24_export.facts.files import describe_files, expect_unchanged, look_at
from prox24_export.input_files import expect_file
from prox24_export.models.onnx import OnnxFile
from prox24_export.output.destination import Destination
from prox24_export.output.manifest import TOOL
from prox24_export.output.place import find_free_name, take_place
from prox24_export.output.target import expect_outside
from prox24_export.passes.emit_engine.build import EngineBuildError
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph, expect_onnx_graph
from prox24_export.passes.front_onnx.runtime import shorten_message
from prox24_export.passes.graph.protocol import Candidate, Feeds, Linear
from prox24_export.passes.precision.quantised import read_integers
from prox24_export.passes.verify_pattern import check_use
from prox24_export.process.interrupts import catch_signals
from prox24_export.report import files
from prox24_export.results.engine import EngineReport, Estimate
from prox24_export.results.report import FileFacts, LayerReport, Report
from prox24_export.settings import Settings
from prox24_export.stages.engines import FinishedPair, draw_timed_batches, estimate_gain, run_engines
from prox24_export.stages.open_model import open_model
from prox24_export.stages.prepare import Job
from prox24_export.stages.prune import describe_layer
from prox24_export.stages.run import Run
from prox24_export.stages.samples import find_batch_size
from prox24_export.validation import gates

ENGINE_FILES = {".engine", ".plan", ".trt"}
USUAL = (1, 8, 32)


def bench(
    dense: Path,
    sparse: Path,
    out: Path | None = None,
    *,
    batches: Sequence[int] = (),
    inputs: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Times both models in turns on the same inputs, and writes the report.

    Args:
        dense: ONNX file, or a TensorRT engine.
        sparse: The same.
        out: Folder to write; default `SPARSE_STEM-bench` in the current folder.
        batches: Sizes of the first axis, one point each; none: 1, 8 and 32 where that axis is dynamic.
        inputs: Samples, as for calibration; None draws them. Engines need them: an `.npz` by name of the input.
        settings: `engine`, `precision`, `shapes`, `min_speedup`, `seed` and what concerns engines count.

    Raises:
        InputError: A file or an option is unsuitable; nothing was written.
        UnavailableError: Nothing can be timed here; nothing was written.
        Prox24Error: The engine cannot build or run a model.
        OSError: The output cannot be written.
    """
    run, settings = Run(), settings or Settings()
    for file in (dense, sparse):
        expect_file(file, "model", "two .onnx files or two TensorRT engines")
    _expect_used(settings, batches, inputs)
    kinds = {file.suffix.lower() in ENGINE_FILES for file in (dense, sparse)}
    if len(kinds) > 1:
        raise InputError(f"{dense} and {sparse} must both be ONNX files, or both TensorRT engines.")
    target = out or Path(f"{sparse.stem}-bench")
    if Destination.read(target).model is not None:
        raise InputError(f"--out {target} names a model, and bench writes a report. Give the name of a folder.")
    reads = sparse, dense, inputs, settings.timing_cache
    with catch_signals(), take_place(target, *reads, force=settings.force) as folder:
        if kinds == {True}:
            report = _bench_engines(dense, sparse, inputs, batches, settings, run)
        else:
            report = _bench_models(dense, sparse, target, folder, batches, inputs, settings, run)
        report = replace(report, seconds=run.seconds | {"total": round(time.perf_counter() - run.start, 3)})
        return files.write_report(report, folder)


def _bench_models(  # noqa: PLR0917 - as `bench` has them
    dense: Path,
    sparse: Path,
    target: Path,
    folder: Path,
    batches: Sequence[int],
    inputs: str | None,
    settings: Settings,
    run: Run,
) -> Report:
    choice = _choose(settings)
    with run.timed("load"):
        models = open_model(OnnxFile(dense)), open_model(OnnxFile(sparse))
        left, right = (expect_onnx_graph(model.graph) for model in models)
        expect_outside(target, (file for model in models for file in model.states))
        _expect_alike(left, right)
        looked_at = read_integers(right)
        found = FindLinears(settings.include, settings.exclude).call(graph=looked_at).layers
        rows = _describe_layers(looked_at, found)
    with run.timed("data"):
        samples: Sequence[Sample] = [] if inputs is None else read_samples(inputs, left.inputs, "--inputs")
        parts = Parts(samples, (), ())
        size = find_batch_size(left, parts) if samples else 1
        job = Job(models[0], settings, target, found, parts, None, size, choice)
        timed = _draw_calls(job, batches, run)
    expected = estimate_gain(job, rows, timed, run)
    with run.timed("engines"):
        finished = FinishedPair(folder, right, dense, sparse, rows)
        try:
            engine = run_engines(job, finished, timed)
        except EngineBuildError as error:
            kept = find_free_name(target.with_name(f"{target.name}.build.log"))  # the output folder will not appear
            kept.write_text(error.log, encoding="utf-8")
            raise Prox24Error(f"{error.reason} All that it said is in {kept}.") from error
    for model in models:
        model.expect_unchanged()
    return _assemble_report(models[0].facts, models[1].facts, settings, run, engine, rows, expected)


def _expect_used(settings: Settings, batches: Sequence[int], inputs: str | None) -> None:
    """Refuses options that would be ignored."""
    if settings.engine == "none":
        raise InputError("--engine none times nothing. Choose another engine, or leave it out.")
    if settings.precision == "int8" and inputs is None:
        raise InputError(
            "--precision int8 takes scales from samples, and there are none. Give some with --inputs; files that are "
            "INT8 already are timed without --precision."
        )
    if settings.shapes and (batches or inputs is not None):
        raise InputError("--shapes says what is timed, on random inputs. Leave --batch and --inputs out, or --shapes.")


def _expect_alike(dense: OnnxGraph, sparse: OnnxGraph) -> None:
    left, right = ({value.name: value.dtype for value in graph.inputs} for graph in (dense, sparse))
    if left != right:
        raise InputError(
            f"{dense.path} takes {', '.join(left) or 'nothing'}, {sparse.path} takes {', '.join(right) or 'nothing'}. "
            "Expected two models with the same inputs, of the same types."
        )


def _choose(settings: Settings) -> EngineChoice:
    """With `auto` there is always something to time: ONNX Runtime's CPU where nothing else is."""
    request = EngineRequest(settings.engine, settings.precision, settings.min_speedup)
    if request.engine == "auto" and choose_engine(replace(request, min_speedup=None), has_onnx=True).engine == "none":
        request = replace(request, engine="onnxruntime")
    return choose_engine(request, has_onnx=True)


def _describe_layers(graph: OnnxGraph, found: Sequence[object]) -> list[LayerReport]:
    """Every layer; one is sparse where each use of its weight is 2:4."""
    wrong = {use.weight for use in graph.operators() if isinstance(use, Candidate) and check_use(graph, use).violations}
    rows = []
    for layer in found:
        row = describe_layer(layer, graph.parameters)  # type: ignore[arg-type] # what FindLinears gives
        if isinstance(layer, Linear) and layer.weight in wrong:
            row = replace(row, state="dense", reason="its weight is not 2:4 in this file", notes=())
        rows.append(row)
    return rows


def _draw_calls(job: Job, batches: Sequence[int], run: Run) -> list[Feeds]:
    """One call for each size, of the samples given or of random ones; the shapes given where there are any."""
    if job.settings.ranges and not batches:
        return draw_timed_batches(job, run)
    free = can_join(job.graph.inputs)
    sizes = tuple(batches) or (USUAL if free else (1,))
    if not free and sizes != (1,):
        raise InputError(f"--batch {sizes[0]}: the model's first axis is fixed. Leave --batch out.")
    calls = [_draw_call(job, size) for size in dict.fromkeys(sizes)]
    model = job.graph.runner()
    possible: list[Feeds] = []
    for size, feeds in zip(dict.fromkeys(sizes), calls, strict=True):
        try:
            model(feeds)
        except Exception as error:
            if batches or not possible:
                raise InputError(
                    f"{job.graph.path} cannot be run on {size} samples: {shorten_message(error)}."
                ) from error
            break  # the first axis is called dynamic, and is not
        possible.append(feeds)
    return possible


def _draw_call(job: Job, size: int) -> Feeds:
    graph, samples = job.graph, job.parts.fit
    if not samples:
        samples = draw_random(graph.inputs, graph.gathered_rows, job.settings.random_shapes, size, job.settings.seed)
    repeated = select_samples(samples, [index % len(samples) for index in range(size)])
    groups = [feeds for feeds, _ in join_samples(repeated, graph.inputs, size)]
    if len(groups) > 1:
        raise InputError(f"--batch {size}: the samples have other shapes and cannot be joined. Give ones that can.")
    return groups[0]


def _bench_engines(  # noqa: PLR0917 - as `bench` has them
    dense: Path, sparse: Path, inputs: str | None, batches: Sequence[int], settings: Settings, run: Run
) -> Report:
    """Engines are timed as they are; their layers and outputs are not compared with anything."""
    from prox24_export.engines.tensorrt.measure import bench_engines  # noqa: PLC0415 (optional)

    if inputs is None or Path(inputs).suffix.lower() != ".npz":
        raise InputError("engines are timed on --inputs FILE.npz, with an array for every input of the engine.")
    arrays = read_arrays(Path(inputs), "--inputs")
    arrays.pop(LABELS, None)
    longest = min((len(array) for array in arrays.values() if array.ndim), default=1)
    sizes = tuple(batches) or (longest,)
    if max(sizes) > longest:
        raise InputError(f"--batch {max(sizes)}: {inputs} has {longest} samples. Give more samples or a smaller batch.")
    timed = [
        {name: array[:size] if array.ndim else np.asarray(array) for name, array in arrays.items()} for size in sizes
    ]
    states = look_at((dense, sparse))
    found = [describe_files({"": file}, file) for file in (dense, sparse)]
    with run.timed("engines"):
        engine = bench_engines(dense, sparse, timed, settings.precision or "fp16")
    expect_unchanged(states, lambda: found == [describe_files({"": file}, file) for file in (dense, sparse)])
    return _assemble_report(found[0], found[1], settings, run, engine)


def _assemble_report(  # noqa: PLR0917 - what a report of two files holds
    dense: FileFacts,
    sparse: FileFacts,
    settings: Settings,
    run: Run,
    engine: EngineReport,
    rows: Sequence[LayerReport] = (),
    expected: Estimate | None = None,
) -> Report:
    return Report(
        tool=TOOL,
        versions=run.versions,
        machine=machine.describe_machine(),
        started=run.started,
        settings=settings.as_dict(),
        input=dense,
        output=sparse,
        data=None,
        layers=tuple(rows),
        accuracy=None,
        gates=gates.evaluate_gates(settings, None, engine=engine, layers=rows),
        warnings=tuple(run.warnings),
        executions=None,
        estimate=expected,
        engine=engine,
    )
