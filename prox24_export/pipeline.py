"""The pipeline on one page: what goes in, which passes it walks through, what comes out."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prox24_export import facts, output
from prox24_export.budget import keep as budget
from prox24_export.data import samples as data
from prox24_export.errors import InputError
from prox24_export.models import frontends
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_torch.emit_onnx import verify_onnx
from prox24_export.passes.graph.protocol import Array, Linear, Skipped, TracedGraph
from prox24_export.passes.verify_pattern import verify_pattern
from prox24_export.progress import Progress, Silent
from prox24_export.report import rerender
from prox24_export.results.budget import BudgetReport, SensitivityReport
from prox24_export.results.engine import EngineReport
from prox24_export.results.report import AccuracyReport, Gate, LayerReport, Report
from prox24_export.settings import Settings
from prox24_export.stages import engines as engine_stage
from prox24_export.stages import plan as planning
from prox24_export.stages.engines import NOTHING_SPARSE
from prox24_export.stages.plan import Plan
from prox24_export.stages.prepare import Job, Model, prepare
from prox24_export.stages.prune import row_of
from prox24_export.stages.refine import is_wanted
from prox24_export.stages.run import Run
from prox24_export.stages.solve import solve
from prox24_export.stages.weight_store import WeightStore
from prox24_export.validation import accuracy, baseline, custom_metric, gates


def inspect(model: Model, settings: Settings | None = None, *, example: Any = None) -> list[Linear | Skipped]:
    """Every linear layer of a model, and every linear-like node that stays dense with its reason.

    Args:
        model: As for `export`.
        settings: `include` and `exclude` count.
        example: Inputs to trace a torch module with: a tensor, a tuple of them, or a dictionary by argument.

    Raises:
        InputError: The model is unreadable. Whether it can be run shows only in `export`.
    """
    settings = settings or Settings()
    return FindLinears(settings.include, settings.exclude).call(frontends.of(model, example).open())


def inspect_layers(model: str | Path, settings: Settings | None = None) -> list[LayerReport]:
    """`inspect` as rows of the report, with each layer's share of the model's parameters."""
    settings = settings or Settings()
    graph = frontends.of(model).open()
    found = FindLinears(settings.include, settings.exclude).call(graph)
    return [row_of(layer, graph.parameters) for layer in found]


def export(
    model: Model,
    calibration: data.Source | None = None,
    out: str | Path | None = None,
    *,
    evaluation: data.Source | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Makes a 2:4-sparse copy of a model, verifies it, and measures what it is worth.

    Args:
        model: Path of an `.onnx` file, a Hugging Face directory or a `.pt2` file; `module:function` that returns a
            torch module and example inputs; or a torch module. Never modified.
        calibration: `.npz`, `.npy`, a folder of `.npz`, `module:function`, or an iterable of batches: feed
            dictionaries, or arrays or tensors in the order of the inputs. None draws random inputs: then the masks are
            not based on data, and the report says so. A torch module is traced on the first batch.
        out: Folder to write; default `MODEL_STEM-2to4` in the current folder. Appears whole or not at all.
        evaluation: Samples for the accuracy, as for `calibration`; None sets a fifth of the calibration samples aside.
        settings: Every option; None means the defaults.
        progress: Where to show progress; None shows nothing.

    Returns:
        The report, as also written to `report.json`, `report.html`, `summary.md` and `junit.xml`.

    Raises:
        InputError: Model, data or options are unsuitable; nothing was written.
        UnavailableError: An engine was asked for that cannot be had here; nothing was written.
        OSError: The output cannot be written; nothing was left behind.
    """
    run = Run()
    progress = progress or Silent()
    job = prepare(model, calibration, out, evaluation, settings or Settings(), run)
    job, judges = _judges(job)
    graph, parts, settings = job.graph, job.parts, job.settings
    with run.timed("data"):
        batches = list(data.joined(parts.report, graph.inputs, job.size))
        timed = engine_stage.timed_batches(job)
        own = None
        if settings.metric is not None:  # a metric that fails does so before any work
            own = custom_metric.measure_samples(settings.metric, graph.runner(), graph.outputs, batches)
    run.warn_about(graph, job.facts)
    run.warn_about_globs(settings, job.found)
    with output.folder(job.target) as folder:
        with output.scratch(folder) as scratch:
            weights = WeightStore(scratch)
            pruned, refined = solve(job, weights, scratch, run, progress)
            kept: BudgetReport | None = None
            if judges is not None and weights:
                pruned, kept = budget.keep_budget(
                    *(job, pruned, weights, judges),
                    again=refined is None or not refined.kept,
                    scratch=scratch,
                    run=run,
                    progress=progress,
                )
            solved = [layer for layer in job.linears if layer.weight in weights]
            with run.timed("save"):
                written = job.frontend.write(graph, weights, folder)
        with run.timed("verify"):
            sparse = frontends.of(written).open()
            verify_pattern(sparse, solved)
            if job.wants_onnx:
                feeds, _ = next(data.joined(parts.report or parts.fit, graph.inputs, 1), (None, None))
                verify_onnx(frontends.of(job.frontend.write_onnx(sparse, folder)).open(), sparse, solved, feeds)
        with run.timed("accuracy"):
            count = len(parts.report)
            measured = _accuracy(graph, sparse, batches, count, settings, own_dense=own, progress=progress)
        with run.timed("estimate"):
            expected = engine_stage.expected(job, pruned.layers, timed)
        with run.timed("engines"), output.scratch(folder) as scratch:
            pair = _onnx_files(job, written, folder, scratch)
            result = engine_stage.Written(folder, sparse, *pair, pruned.layers)
            engine = engine_stage.run_engines(job, result, timed, batches) if result.pruned else NOTHING_SPARSE
            run.warnings.extend(engine.notes)
        with run.timed("gates"):
            verdicts = _gates(job, measured, engine, pruned.layers, run, is_copy=not weights)
        report = Report(
            tool="prox24-export",
            versions=facts.versions(),
            machine=facts.machine() | {"peak_memory_mb": round(facts.peak_memory_mb(), 1)},
            started=run.started,
            settings=settings.as_dict(),
            input=job.frontend.facts(),
            output=facts.file_facts(written, job.target / written.name),
            data=job.facts,
            layers=tuple(pruned.layers),
            accuracy=measured,
            gates=verdicts,
            warnings=tuple(run.warnings),
            executions=pruned.executions,
            refinement=refined,
            estimate=expected,
            engine=engine,
            budget=kept,
            seconds=run.seconds | {"total": round(time.perf_counter() - run.start, 3)},
        )
        (folder / output.REPORT).write_text(report.to_json(), encoding="utf-8")
        rerender.write(report, folder, pruned.masks)
    return report


def plan(
    model: Model,
    calibration: data.Source | None = None,
    *,
    evaluation: data.Source | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Peak memory and time of the `export` with the same arguments, on this machine; writes nothing.

    Raises:
        InputError: As `export`.
    """
    run, settings = Run(), replace(_unmeasured(settings, calibration), force=True)
    with tempfile.TemporaryDirectory() as name:
        job = prepare(model, calibration, Path(name) / "out", evaluation, settings, run)
    return planning.plan(
        job.graph,
        job.linears,
        job.parts,
        size=job.size,
        settings=settings,
        opening=run.seconds["load"],
        refines=is_wanted(job),
        progress=progress or Silent(),
    )


def sensitivity(
    model: Model,
    calibration: data.Source | None = None,
    *,
    evaluation: data.Source | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """How much the outputs lose by each layer, measured on the choice part after a run's layers are solved.

    Where nothing is refined they were solved on these samples too, so that the losses are a little low. Writes nothing.

    Raises:
        InputError: As `export`; or no sample is held back, or nothing is eligible.
    """
    run, settings, progress = Run(), replace(_unmeasured(settings, calibration), force=True), progress or Silent()
    with tempfile.TemporaryDirectory() as name:
        job = prepare(model, calibration, Path(name) / "out", evaluation, settings, run)
        weights = WeightStore(Path(name))
        pruned, _ = solve(job, weights, Path(name), run, progress)
        if not weights:
            raise InputError(f"{job.frontend.path} has no layer that can be pruned: see prox24-export inspect.")
        return budget.sensitivity_of(job, weights, pruned.layers, progress)[0]


def _unmeasured(settings: Settings | None, calibration: data.Source | None) -> Settings:
    """The settings of a run that ends before anything is timed."""
    settings = settings or Settings()
    shapes = {} if calibration is not None else settings.shapes  # then they are those of engines
    plain = replace(settings, precision=None, min_speedup=None, workspace_mb=None, timing_cache=None)
    return replace(plain, engine="none", shapes=shapes)


def _judges(job: Job) -> tuple[Job, budget.Judges | None]:
    """With a budget: the job without the evaluation samples that the search looks at, and what decides it on them.

    Raises:
        InputError: The samples cannot answer it.
    """
    return budget.apart(job) if job.settings.budget and job.linears else (job, None)


def _onnx_files(job: Job, written: Path, folder: Path, scratch: Path) -> tuple[Path | None, Path | None]:
    """Dense and sparse model as ONNX files, as far as there are any; a torch model's dense one goes to `scratch`."""
    if isinstance(job.frontend, frontends.Onnx):
        return job.frontend.path, written
    if not job.wants_onnx:
        return None, None
    needed = job.choice.engine in {"tensorrt", "onnxruntime"} or job.choice.writes_files
    return (job.frontend.write_onnx(job.graph, scratch) if needed else None), folder / "model.onnx"


def _gates(
    job: Job,
    measured: AccuracyReport | None,
    engine: EngineReport,
    layers: Sequence[LayerReport],
    run: Run,
    *,
    is_copy: bool,
) -> tuple[Gate, ...]:
    """Of the limits, and against an earlier run."""
    verdicts = gates.evaluate(job.settings, measured, engine=engine, layers=layers, is_copy=is_copy)
    if job.baseline is None:
        return verdicts
    found = baseline.compare(job.baseline, measured, engine=engine, layers=layers, strict=job.settings.strict)
    run.warnings.extend(found.warnings)
    return verdicts + found.gates


def _accuracy(
    dense: TracedGraph,
    sparse: TracedGraph,
    batches: Sequence[tuple[dict[str, Array], Array | None]],
    samples: int,
    settings: Settings,
    *,
    own_dense: custom_metric.Measured | None,
    progress: Progress,
) -> AccuracyReport | None:
    if not batches:
        return None
    runs = [graph.runner() for graph in (dense, sparse)]
    with progress.stage("accuracy", len(batches)) as tick:
        measured = accuracy.compare(
            runs[0],
            runs[1],
            dense.outputs,
            batches,
            samples=samples,
            next_token=dense.inputs[0].name if dense.predicts_next_token else None,
            stride=settings.stride,
            tick=tick,
        )
    if settings.metric is None or own_dense is None:
        return measured
    own = custom_metric.measure_samples(settings.metric, runs[1], dense.outputs, batches)
    return custom_metric.add_to(measured, own_dense, own)
