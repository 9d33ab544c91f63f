"""The pipeline on one page: what goes in, which stages it walks through, what comes out."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prox24_export.budget.judges import Judges, expect_held_back, prepare_judges
from prox24_export.budget.keep import measure_job_sensitivity, stay_within_budget
from prox24_export.data.samples import Source
from prox24_export.engines.gain import bound_gain
from prox24_export.errors import InputError
from prox24_export.models.find_frontend import find_frontend
from prox24_export.models.onnx import OnnxFile
from prox24_export.option_values import GpuName
from prox24_export.output.beside import find_model_folder
from prox24_export.output.manifest import list_files
from prox24_export.output.place import make_scratch, take_place
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.protocol import Feeds, Linear, Skipped, TracedGraph
from prox24_export.process.interrupts import catch_signals
from prox24_export.progress import Progress, choose_progress
from prox24_export.report import files
from prox24_export.results.budget import SensitivityReport
from prox24_export.results.gain import GpuGain
from prox24_export.results.permutation import SpaceReport
from prox24_export.results.plan import Plan
from prox24_export.results.report import Gate, LayerReport, Report
from prox24_export.settings import Settings
from prox24_export.stages.assemble import assemble_report
from prox24_export.stages.engines import ENGINES_FAILED, draw_timed_batches, estimate_gain, measure_engines
from prox24_export.stages.journal import Journal
from prox24_export.stages.judge import judge
from prox24_export.stages.measure import Measurement, measure_accuracy, prepare_measurement
from prox24_export.stages.permute import PermutedModel, find_spaces, permute, why_not_by_default
from prox24_export.stages.plan.forecast import forecast
from prox24_export.stages.plan.gpu_rates import find_planned_gpu
from prox24_export.stages.plan.plan import plan_run
from prox24_export.stages.prepare import Job, ModelSource, expect_calibration, name_model, prepare
from prox24_export.stages.prune import describe_layer
from prox24_export.stages.refine import is_wanted
from prox24_export.stages.resume import find_journal_to_resume, find_resumed, open_journal
from prox24_export.stages.run import Run
from prox24_export.stages.solve import solve
from prox24_export.stages.work.ray_workers import open_workers
from prox24_export.stages.write import write_model


def export(
    model: ModelSource,
    calibration: Source | None = None,
    out: str | Path | None = None,
    *,
    evaluation: Source | None = None,
    settings: Settings | None = None,
    progress: Progress | bool | None = None,
) -> Report:
    """Makes a 2:4-sparse copy of a model, verifies it, and measures what it is worth.

    Args:
        model: Path of an `.onnx` file, a Hugging Face directory or a `.pt2` file; `module:function` that returns a
            torch module and example inputs; or a torch module. Never modified.
        calibration: `.npz`, `.npy`, a folder of `.npz`, `module:function`, or an iterable of batches: feed
            dictionaries, or arrays or tensors in the order of the inputs. None draws random inputs: then the masks are
            not based on data, and the report says so. A torch module is traced on the first batch.
        out: Folder to write; default `MODEL_STEM-2to4` in the current folder. A name that ends in `.onnx` is that of
            the ONNX file instead: external data of `x.onnx` go to `x.onnx.data`, and everything else to the folder
            `x-report`. All of it appears whole or not at all.
        evaluation: Samples for the accuracy, as for `calibration`; None sets a fifth of the calibration samples aside.
        settings: Every option; None means the defaults.
        progress: Whether to show progress: True shows it in a notebook or on stderr, False nothing, and None hands it
            to `logging` at level INFO, as messages of the logger `prox24_export`. Or an object of your own.

    Returns:
        The report, as also written to `report.json`, `report.html`, `summary.md` and `junit.xml`.

    Where a stage fails after the layers are solved, the model is written all the same, and `Report.faults` names it.
    Where a GPU has too little memory, the run ends instead, and leaves its journal.

    A run that is interrupted or killed leaves `OUT.journal`, and the same call goes on from there; see
    `Settings.no_resume`.

    Raises:
        InputError: Model, data or options are unsuitable, or the model was changed meanwhile; or the journal is of a
            run with others. Nothing was written.
        UnavailableError: An engine was asked for that cannot be had here, or workers; nothing was written.
        OSError: The output cannot be written; nothing was left behind but the journal.
        Prox24Error: Somebody else made the output folder meanwhile; the error says where the result is. Or a GPU has
            too little memory; nothing was left behind but the journal.
        KeyboardInterrupt: A signal came; nothing was left behind but the journal.
    """
    run, settings = Run(choose_progress(progress)), _complete(settings)
    named = name_model(model, calibration, out)
    reads = named.frontend.path, named.calibration, evaluation, settings.baseline, settings.timing_cache
    taken = take_place(named.target, *reads, force=settings.force, journaled=True, model=named.model_file)
    with catch_signals(), taken as folder, open_workers(settings.ray) as workers:
        prepared = replace(prepare(named, evaluation, settings, run), workers=workers)
        job, judges = prepare_judges(prepared)
        measurement, timed = prepare_measurement(job, run), draw_timed_batches(job, run)
        run.warn_about(job.graph, job.facts)
        run.warn_about_globs(job.settings, job.found)
        with open_journal(prepared, run) as journal:
            return _run_stages(job, judges, measurement, timed, folder, run, journal)


def _run_stages(  # noqa: PLR0917 - what is prepared before them
    job: Job,
    judges: Judges | None,
    measurement: Measurement,
    timed: Sequence[Feeds],
    folder: Path,
    run: Run,
    journal: Journal,
) -> Report:
    """Does the work: once the layers are solved, no fault of a later stage costs them."""
    forecast(job, measurement, run)
    with make_scratch(folder) as scratch:
        permuted = run.attempt("permute", lambda: permute(job, scratch, run, journal), PermutedModel(job))
        journal.set_order(permuted.report if permuted.moved else None)
        first = solve(permuted.job, scratch, run, journal)
        solved = run.attempt("budget", lambda: stay_within_budget(permuted.job, first, judges, scratch, run), first)
        moved = permuted.moved if solved.weights else {}  # nothing pruned: the file is a copy
        written = write_model(job, solved, moved, folder, run)
        is_copy, layers = not solved.weights, solved.pruned.layers
    job.opened.expect_unchanged()
    accuracy = run.attempt("accuracy", lambda: measure_accuracy(measurement, written.sparse, job.device, run), None)
    estimate = run.attempt("estimate", lambda: estimate_gain(job, layers, timed, run), None)
    engine = run.attempt(
        "engines", lambda: measure_engines(job, written, layers, timed, measurement.batches, run), ENGINES_FAILED
    )
    none: tuple[Gate, ...] = ()
    gates = run.attempt("gates", lambda: judge(job, accuracy, engine, layers, run, is_copy=is_copy), none)
    job.opened.expect_unchanged()
    report = assemble_report(job, permuted.report, solved, written, accuracy, estimate, engine, gates, run)
    beside = () if job.model_file is None else list_files(find_model_folder(folder, job.model_file))
    return files.write_report(report, folder, solved.pruned.masks, beside)


def inspect(model: ModelSource, settings: Settings | None = None, *, example: Any = None) -> list[Linear | Skipped]:
    """Finds every linear layer of a model, and every linear-like node that stays dense, with its reason.

    Args:
        model: As for `export`.
        settings: `include` and `exclude` count.
        example: Inputs to trace a torch module with: a tensor, a tuple of them, or a dictionary by argument.

    Raises:
        InputError: The model is unreadable. Whether it can be run shows only in `export`.
    """
    settings = _complete(settings)
    graph = _open_to_look_at(model, example)
    return list(FindLinears(settings.include, settings.exclude).call(graph=graph).layers)


def _open_to_look_at(model: ModelSource, example: Any = None) -> TracedGraph:
    """Opens a model whose weights are not read; of a directory with `config.json` alone, the shapes are known."""
    frontend = find_frontend(model, example)
    if isinstance(frontend, OnnxFile):  # transformers and torch need not be loaded
        return frontend.open()
    from prox24_export.models import configured_shapes  # noqa: PLC0415

    return (
        configured_shapes.open_shapes(frontend.path) if configured_shapes.has_only_shapes(frontend) else frontend.open()
    )


def inspect_layers(model: str | Path, settings: Settings | None = None) -> list[LayerReport]:
    """Describes what `inspect` finds as rows of the report, with each layer's share of the model's parameters."""
    settings = _complete(settings)
    graph = _open_to_look_at(model)
    found = FindLinears(settings.include, settings.exclude).call(graph=graph).layers
    return [describe_layer(layer, graph.parameters) for layer in found]


def inspect_on_gpu(
    model: str | Path, gpu: GpuName, *, batch: int = 1, sequence: int = 128, settings: Settings | None = None
) -> tuple[list[LayerReport], GpuGain]:
    """Describes what `inspect_layers` does, and bounds what 2:4 could gain on a GPU.

    Args:
        model: As for `inspect`.
        gpu: The GPU.
        batch: The size of dynamic first axes in the call that the gain is bounded for.
        sequence: The size of its other dynamic axes.
        settings: `include` and `exclude` count.

    Raises:
        InputError: The model is unreadable, or cannot be run to count the tokens of that call.
    """
    settings = _complete(settings)
    graph = _open_to_look_at(model)
    found = FindLinears(settings.include, settings.exclude).call(graph=graph).layers
    return [describe_layer(layer, graph.parameters) for layer in found], bound_gain(graph, found, gpu, batch, sequence)


def inspect_spaces(model: str | Path, settings: Settings | None = None) -> list[SpaceReport]:
    """Finds the channels that may change places, and why others may not; the model is run once, on random inputs.

    Raises:
        InputError: The model is unreadable, or its graph cannot be followed.
    """
    settings = _complete(settings)
    graph = find_frontend(model).open()
    linears = FindLinears(settings.include, settings.exclude).call(graph=graph).linears
    return find_spaces(graph, linears)


def plan(
    model: ModelSource,
    calibration: Source | None = None,
    out: str | Path | None = None,
    *,
    evaluation: Source | None = None,
    settings: Settings | None = None,
    progress: Progress | bool | None = None,
) -> Plan:
    """States the peak memory and the time that `export` would take with these arguments; writes nothing.

    Where that would go on with what an interrupted run has done, it is the time that is left. For a GPU, which need not
    be there, nothing is measured: `Plan.assumptions` says what it rests on.

    Raises:
        InputError: The model, the samples or an option are unsuitable, as for `export`.
        UnavailableError: There are no workers to be had.
    """
    run = Run(choose_progress(progress))
    quantises = _complete(settings).precision == "int8"
    gpu = find_planned_gpu(_complete(settings).device) if _complete(settings).ray is None else None
    expect_calibration(_complete(settings), calibration)
    with catch_signals(), open_workers(_complete(settings).ray) as workers:
        named, count = name_model(model, calibration, out), 0 if workers is None else workers.count
        there = gpu is None or bool(gpu.seen)
        job = prepare(named, evaluation, _unmeasured(settings, calibration, device=None if there else "cpu"), run)
        journal = find_journal_to_resume(job, run) if there else Journal()
    planned = plan_run(
        job.graph,
        job.linears,
        job.parts,
        size=job.size,
        settings=job.settings,
        opening=run.seconds["load"],
        refines=is_wanted(job),
        permutes=job.settings.permute != "no" and why_not_by_default(job) is None,
        resumed=find_resumed(journal, job),
        gpu=gpu,
        progress=run.progress,
        workers=count,
    )
    return replace(planned, quantises=quantises)


def sensitivity(
    model: ModelSource,
    calibration: Source | None = None,
    *,
    evaluation: Source | None = None,
    settings: Settings | None = None,
    progress: Progress | bool | None = None,
) -> SensitivityReport:
    """Measures how much the outputs lose by each layer, on held-back samples after the layers are solved.

    Where nothing is refined, the layers were solved on these samples too, so that the losses are a little low. This
    writes nothing.

    Raises:
        InputError: The model, the samples or an option are unsuitable, as for `export`; or no sample is held back; or
            no layer can be pruned.
    """
    run = Run(choose_progress(progress))
    with (
        catch_signals(),
        tempfile.TemporaryDirectory() as name,
        open_workers(_complete(settings).ray) as workers,
    ):
        named = name_model(model, calibration, Path(name) / "out")
        job = replace(prepare(named, evaluation, _unmeasured(settings, calibration), run), workers=workers)
        expect_held_back(job)
        job = permute(job, Path(name), run, Journal()).job
        solved = solve(job, Path(name), run, Journal())
        if not solved.weights:
            raise InputError(f"{job.frontend.path} has no layer that can be pruned: see prox24-export inspect.")
        return measure_job_sensitivity(job, solved.weights, solved.pruned.layers, run.progress)[0]


def _complete(settings: Settings | None) -> Settings:
    """The settings that were given, or the defaults.

    Raises:
        InputError: They are something else.
    """
    if settings is not None and not isinstance(settings, Settings):
        raise InputError(f"settings must be a Settings, such as Settings(effort='fast'). Got {settings!r:.80}.")
    return settings or Settings()


def _unmeasured(settings: Settings | None, calibration: Source | None, device: str | None = None) -> Settings:
    """The settings of a run that ends before anything is timed or written; on another device where one is given."""
    settings = _complete(settings)
    settings = settings if device is None else replace(settings, device=device)
    shapes = {} if calibration is not None else settings.shapes  # then they are those of engines
    plain = replace(settings, precision=None, min_speedup=None, workspace_mb=None, timing_cache=None)
    return replace(plain, engine="none", shapes=shapes)
