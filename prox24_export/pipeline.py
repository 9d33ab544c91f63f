"""The pipeline on one page: what goes in, which passes it walks through, what comes out."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from prox24_export import calibration as data
from prox24_export import facts, frontends, output, planning, preparation
from prox24_export.frontends import Frontend
from prox24_export.passes.emit_onnx import verify_onnx
from prox24_export.passes.find_linears import FindLinears, matches
from prox24_export.passes.graph import Array, Linear, Skipped, TracedGraph
from prox24_export.passes.verify_pattern import verify_pattern
from prox24_export.planning import Plan
from prox24_export.progress import Progress, Silent
from prox24_export.pruning import prune, row_of
from prox24_export.refinement import refine
from prox24_export.report import html, markdown
from prox24_export.report.model import AccuracyReport, DataFacts, LayerReport, Report
from prox24_export.settings import Settings
from prox24_export.validation import accuracy, custom_metric, gates
from prox24_export.weight_store import WeightStore

Model = str | Path | nn.Module


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
        The report, as also written to `report.json`, `report.html` and `summary.md`.

    Raises:
        InputError: Model, data or options are unsuitable; nothing was written.
        OSError: The output cannot be written; nothing was left behind.
    """
    run = _Run()
    progress = progress or Silent()
    job = _prepared(model, calibration, out, evaluation, settings or Settings(), run)
    graph, parts, settings, size = job.graph, job.parts, job.settings, job.size
    with run.timed("data"):
        batches = list(data.joined(parts.report, graph.inputs, size))
        own: dict[str, float] = {}
        if settings.metric is not None:  # a metric that fails does so before any work
            own = custom_metric.measure(settings.metric, graph.runner(), graph.outputs, batches)
    run.warn_about(graph, job.facts)
    run.warn_about_globs(settings, job.found)
    with output.folder(job.target) as folder:
        with output.scratch(folder) as scratch:
            weights = WeightStore(scratch)
            with run.timed("prune"):
                pruned = prune(
                    graph, job.found, parts, weights, scratch=scratch, size=size, settings=settings, progress=progress
                )
            solved = [layer for layer in job.linears if layer.weight in weights]
            with run.timed("refine"):
                refined = refine(graph, solved, weights, parts, settings=settings, progress=progress)
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
            gates=gates.evaluate(settings, measured, is_copy=not weights),
            warnings=tuple(run.warnings),
            executions=pruned.executions,
            refinement=refined,
            seconds=run.seconds | {"total": round(time.perf_counter() - run.start, 3)},
        )
        _render(report, folder)
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
    run, settings = _Run(), replace(settings or Settings(), force=True)
    with tempfile.TemporaryDirectory() as name:
        job = _prepared(model, calibration, Path(name) / "out", evaluation, settings, run)
    return planning.plan(
        job.graph,
        job.linears,
        job.parts,
        size=job.size,
        settings=settings,
        opening=run.seconds["load"],
        progress=progress or Silent(),
    )


def _render(report: Report, folder: Path) -> None:
    (folder / output.REPORT).write_text(report.to_json(), encoding="utf-8")
    (folder / "report.html").write_text(html.render(report), encoding="utf-8")
    (folder / "summary.md").write_text(markdown.render(report), encoding="utf-8")


def _default_out(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    return f"{name.replace(':', '-')}-2to4"


@dataclass(frozen=True)
class _Job:
    """What is known before any work: model, layers, samples, all of them checked."""

    frontend: Frontend
    graph: TracedGraph
    settings: Settings
    target: Path
    found: Sequence[Linear | Skipped]
    parts: data.Parts
    facts: DataFacts | None
    size: int

    @property
    def linears(self) -> list[Linear]:
        return [layer for layer in self.found if isinstance(layer, Linear)]

    @property
    def wants_onnx(self) -> bool:
        return self.settings.onnx or self.frontend.always_onnx


def _prepared(  # noqa: PLR0917 - as `export` has them
    model: Model,
    calibration: data.Source | None,
    out: str | Path | None,
    evaluation: data.Source | None,
    settings: Settings,
    run: "_Run",
) -> _Job:
    calibration, example = data.peeked(calibration)
    frontend = frontends.of(model, example)
    target = Path(out) if out is not None else Path(_default_out(frontend.path))
    output.check(target, frontend.path, calibration, evaluation, force=settings.force)
    with run.timed("load"):
        graph = frontend.open()
        if settings.onnx or frontend.always_onnx:
            frontend.expect_onnx(graph)
        graph.runner()  # a model that cannot be run is refused before anything else
        found = FindLinears(settings.include, settings.exclude).call(graph)
        needed = any(isinstance(layer, Linear) for layer in found)
    with run.timed("data"):
        parts, facts_of_data = preparation.samples_of(graph, calibration, evaluation, settings, needed=needed)
        size = preparation.batch_size(graph, parts)
        if needed:
            preparation.check_gates(graph, parts, settings, size)
    return _Job(frontend, graph, settings, target, found, parts, facts_of_data, size)


@dataclass
class _Run:
    """What a run gathers beside its result: time, warnings."""

    start: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 3)

    def warn_about_globs(self, settings: Settings, found: Sequence[Linear | Skipped]) -> None:
        for option, globs in (("--include", settings.include), ("--exclude", settings.exclude)):
            for glob in globs:
                if not any(matches(glob, {layer.name, layer.weight or ""}) for layer in found):
                    self.warnings.append(f"{option} {glob} matches no layer.")

    def warn_about(self, graph: TracedGraph, facts_of_data: DataFacts | None) -> None:
        if graph.runs_in_float32:
            self.warnings.append(
                f"ONNX Runtime has no CPU kernels for {' and '.join(graph.runs_in_float32)} here: calibration and "
                "accuracy ran on a float32 copy; the exported file keeps its own types."
            )
        if facts_of_data is not None and facts_of_data.is_random:
            self.warnings.append(markdown.RANDOM_WARNING)
        if facts_of_data is not None and facts_of_data.report == 0:
            self.warnings.append("Only one sample was given: accuracy was not measured.")
        if facts_of_data is not None and facts_of_data.choice == 0 and not facts_of_data.is_random:
            self.warnings.append("Too few calibration samples to hold any back: the blend is the default.")


def _accuracy(
    dense: TracedGraph,
    sparse: TracedGraph,
    batches: Sequence[tuple[dict[str, Array], Array | None]],
    samples: int,
    settings: Settings,
    *,
    own_dense: Mapping[str, float],
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
    if settings.metric is None:
        return measured
    own = custom_metric.measure(settings.metric, runs[1], dense.outputs, batches)
    return replace(measured, dense={**own_dense, **measured.dense}, sparse=own | measured.sparse)
