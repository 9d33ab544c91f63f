"""The pipeline on one page: what goes in, which passes it walks through, what comes out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prox24_export import calibration as data
from prox24_export import facts, output
from prox24_export.errors import InputError
from prox24_export.passes import runtime
from prox24_export.passes.calibrate import Calibration, Observation
from prox24_export.passes.find_linears import FindLinears, not_reached
from prox24_export.passes.graph import Array, Linear, Skipped
from prox24_export.passes.onnx_graph import OnnxGraph
from prox24_export.passes.rewrite_weights import RewriteWeights, copy_unchanged
from prox24_export.passes.schedule import schedule
from prox24_export.passes.sparsify import Solved, Sparsify
from prox24_export.passes.verify_pattern import verify_pattern
from prox24_export.progress import Progress, Silent
from prox24_export.report import html, markdown
from prox24_export.report.model import AccuracyReport, DataFacts, Executions, LayerReport, Report
from prox24_export.settings import Settings
from prox24_export.validation import accuracy, gates


def inspect(model: str | Path, settings: Settings | None = None) -> list[Linear | Skipped]:
    """Every linear layer of a model, and every linear-like node that stays dense with its reason.

    Raises:
        InputError: The model is unreadable or ONNX Runtime cannot load it.
    """
    settings = settings or Settings()
    return FindLinears(settings.include, settings.exclude).call(OnnxGraph(Path(model)))


def inspect_layers(model: str | Path, settings: Settings | None = None) -> list[LayerReport]:
    """`inspect` as rows of the report, with each layer's share of the model's parameters."""
    settings = settings or Settings()
    graph = OnnxGraph(Path(model))
    found = FindLinears(settings.include, settings.exclude).call(graph)
    return [_layer_report(layer, {}, graph.parameters) for layer in found]


def export(
    model: str | Path,
    calibration: data.Source | None = None,
    out: str | Path | None = None,
    evaluation: data.Source | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Makes a 2:4-sparse copy of an ONNX model, verifies it, and measures what it is worth.

    Args:
        model: Path of an `.onnx` file; never modified.
        calibration: `.npz`, `.npy`, a folder of `.npz`, `module:function`, or an iterable of feed dictionaries. None
            draws random inputs: then the masks are not based on data, and the report says so.
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
    settings = settings or Settings()
    path = Path(model)
    target = Path(out) if out is not None else Path(f"{path.stem}-2to4")
    output.check(target, path, force=settings.force)
    run = _Run(settings, progress or Silent())

    with run.timed("load"):
        graph = OnnxGraph(path)
        graph.session()  # a model that cannot be run is refused before anything else
        found = FindLinears(settings.include, settings.exclude).call(graph)
        linears = [layer for layer in found if isinstance(layer, Linear)]
    with run.timed("data"):
        parts, facts_of_data = _data(graph, calibration, evaluation, settings, bool(linears))
        size = _batch_size(graph, parts)
        _check_gates(graph, parts, settings, size)
    run.warn_about(graph, facts_of_data)
    with run.timed("prune"):
        found, solved, weights, executions = _prune(graph, found, parts, size, run)
    with output.folder(target) as folder:
        with run.timed("save"):
            written = RewriteWeights().call(graph, weights, folder) if weights else copy_unchanged(graph, folder)
            sparse = OnnxGraph(written)
            verify_pattern(sparse, [layer for layer in found if isinstance(layer, Linear)])
        with run.timed("accuracy"):
            measured = _accuracy(graph, sparse, parts.report, size, run.progress)
        report = Report(
            tool="prox24-export",
            versions=facts.versions(),
            machine=facts.machine() | {"peak_memory_mb": round(facts.peak_memory_mb(), 1)},
            started=run.started,
            settings=settings.as_dict(),
            input=facts.file_facts(path, path),
            output=facts.file_facts(written, target / written.name),
            data=facts_of_data,
            layers=tuple(_layer_report(layer, solved, graph.parameters) for layer in found),
            accuracy=measured,
            gates=gates.evaluate(settings, measured),
            warnings=tuple(run.warnings),
            executions=executions,
            seconds=run.seconds | {"total": round(time.perf_counter() - run.start, 3)},
        )
        (folder / output.REPORT).write_text(report.to_json(), encoding="utf-8")
        (folder / "report.html").write_text(html.render(report), encoding="utf-8")
        (folder / "summary.md").write_text(markdown.render(report), encoding="utf-8")
    return report


@dataclass
class _Run:
    """What a run gathers beside its result: time, warnings."""

    settings: Settings
    progress: Progress
    start: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)

    def warn_about(self, graph: OnnxGraph, facts_of_data: DataFacts | None) -> None:
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
            self.warnings.append("Too few calibration samples to hold any back: damping and blend are the defaults.")


def _data(
    graph: OnnxGraph,
    calibration: data.Source | None,
    evaluation: data.Source | None,
    settings: Settings,
    needed: bool,
) -> tuple[data.Parts, DataFacts | None]:
    """Samples in three parts that never mix; none where nothing is eligible and none were given."""
    if not needed and calibration is None and evaluation is None:
        return data.Parts((), (), ()), None
    if calibration is None:
        count = settings.samples or data.RANDOM_SAMPLES
        samples = data.random(graph.inputs, graph.gathered_rows, settings.shapes, count, settings.seed)
    else:
        samples = data.read(calibration, graph.inputs, "--calibration")
    parts = data.split(samples, with_report=evaluation is None, seed=settings.seed, limit=settings.samples)
    if evaluation is not None:
        parts = data.Parts(parts.fit, parts.choice, data.read(evaluation, graph.inputs, "--evaluation"))
    source = "random" if calibration is None else _described(calibration)
    return parts, DataFacts(
        calibration=source,
        evaluation=f"a fifth of {source}" if evaluation is None else _described(evaluation),
        fit=len(parts.fit),
        choice=len(parts.choice),
        report=len(parts.report),
        is_random=calibration is None,
    )


def _described(source: data.Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else "feed dictionaries"


def _batch_size(graph: OnnxGraph, parts: data.Parts) -> int:
    """Samples per call. One where the model declares a dynamic batch but cannot run a larger one.

    Raises:
        InputError: ONNX Runtime cannot run the model on the first sample.
    """
    samples = parts.fit or parts.report
    if not samples:
        return 1
    size = data.batch_size(samples)
    session = graph.session()
    for attempt in dict.fromkeys((size, 1)):
        feeds, _ = next(data.joined(samples, graph.inputs, attempt))
        try:
            session.run(None, feeds)
        except Exception as error:
            if attempt == 1:
                raise InputError(
                    f"ONNX Runtime cannot run {graph.path} on the first sample: {runtime.one_sentence(error)}."
                ) from error
        else:
            return attempt
    return 1


def _check_gates(graph: OnnxGraph, parts: data.Parts, settings: Settings, size: int) -> None:
    """Refuses gates that the report part cannot answer, before any work is done."""
    labelled = [sample for sample in parts.report if sample.labels is not None]
    if settings.max_accuracy_drop is not None and (not labelled or len(labelled) != len(parts.report)):
        raise InputError(
            "--max-accuracy-drop needs labels: expected an array 'labels' in the --evaluation file (or in "
            "--calibration where that is set aside from). Add it, or use --min-snr."
        )
    if settings.min_snr is not None and not parts.report:
        raise InputError("--min-snr needs at least one sample to compare outputs on. Give --evaluation.")
    if labelled:
        feeds, labels = next(data.joined(labelled, graph.inputs, size))
        if labels is not None:
            accuracy.labelled_output(graph.session().run(None, feeds), labels)


def _prune(
    graph: OnnxGraph, found: Sequence[Linear | Skipped], parts: data.Parts, size: int, run: _Run
) -> tuple[list[Linear | Skipped], dict[str, Solved], dict[str, Array], Executions | None]:
    """Stage by stage: observe, solve, carry on with the pruned weights."""
    linears = [layer for layer in found if isinstance(layer, Linear)]
    if not linears:
        return list(found), {}, {}, None
    _expect_finite(graph, linears)
    stages = schedule(graph, linears)
    batches = [
        *data.batches(parts.fit, graph.inputs, "fit", size),
        *data.batches(parts.choice, graph.inputs, "choice", size),
    ]
    calibration = Calibration(graph, batches)
    solved: dict[str, Solved] = {}
    weights: dict[str, Array] = {}
    dropped: dict[str, Skipped] = {}
    with run.progress.stage("calibrate and prune", len(stages) * len(batches) + len(linears)) as tick:
        for stage in stages:
            seen = calibration.advance(stage, weights, tick)
            reached = []
            for linear in stage.linears:
                why = _unreached(seen[linear.name])
                if why:
                    dropped[linear.name] = not_reached(linear, why)
                else:
                    reached.append(linear)
            dense = {linear.name: graph.weight(linear) for linear in reached}
            result = Sparsify(run.settings).call(dense, seen, tick)
            for linear in reached:
                solved[linear.name] = result[linear.name]
                weights[linear.weight] = graph.rounded(linear, result[linear.name].solution.weight)
    executions = Executions(calibration.executions, calibration.one_pass, len(stages))
    return [dropped.get(layer.name, layer) for layer in found], solved, weights, executions


def _unreached(seen: Observation) -> str:
    if seen.fit.tokens == 0:
        return "no token came to it"
    return "its input was always zero" if float(seen.fit.dense.sum()) == 0 else ""


def _expect_finite(graph: OnnxGraph, linears: Sequence[Linear]) -> None:
    for linear in linears:
        if not bool(np.isfinite(graph.stored(linear.weight).astype(np.float64)).all()):
            raise InputError(
                f"weight {linear.weight} of layer {linear.name} holds NaN or Inf. Expected finite weights: repair the "
                f"model, or leave the layer dense with --exclude {linear.name!r}."
            )


def _accuracy(
    dense: OnnxGraph, sparse: OnnxGraph, samples: Sequence[data.Sample], size: int, progress: Progress
) -> AccuracyReport | None:
    if not samples:
        return None
    runs = [_runner(graph) for graph in (dense, sparse)]
    batches = list(data.joined(samples, dense.inputs, size))
    count = size if data.can_join(dense.inputs) else 1
    with progress.stage("accuracy", len(batches)) as tick:
        sized = ((feeds, labels, count) for feeds, labels in batches)
        report = accuracy.compare(runs[0], runs[1], dense.outputs, sized, tick)
    return AccuracyReport(len(samples), report.dense, report.sparse, report.outputs)


def _runner(graph: OnnxGraph) -> Callable[[Mapping[str, Array]], Sequence[Array]]:
    session = graph.session()

    def run(feeds: Mapping[str, Array]) -> Sequence[Array]:
        results: Sequence[Array] = session.run(None, dict(feeds))
        return results

    return run


def _layer_report(layer: Linear | Skipped, solved: Mapping[str, Solved], parameters: int) -> LayerReport:
    share = layer.parameters / parameters if parameters else 0.0
    if isinstance(layer, Skipped):
        return LayerReport(
            layer.name, layer.op, layer.weight, layer.k, layer.n, layer.parameters, share, "dense", layer.sentence
        )
    row = LayerReport(
        layer.name, layer.op, layer.weight, layer.k, layer.n, layer.parameters, share, "sparse", notes=layer.notes
    )
    if layer.name not in solved:  # inspected, not solved
        return row
    result = solved[layer.name]
    return replace(
        row,
        relative_error=result.solution.relative_error,
        blend=result.blend,
        damping=result.damping,
        iterations=result.solution.iterations,
        seconds=round(result.solution.seconds, 4),
        status=result.solution.status.value,
    )
