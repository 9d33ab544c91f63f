"""The sentences and tables that every page of the report shares, as plain text."""

import math
from collections import Counter
from collections.abc import Sequence

from prox24_export.report import budget_tables, engine_tables, outcome, permutation
from prox24_export.report.advice import advise
from prox24_export.report.tables import Table, change_interval, interval, metric_name, number, signed_number, units
from prox24_export.results.change import Change
from prox24_export.results.report import (
    RANDOM_WARNING,
    AccuracyReport,
    Gate,
    LayerReport,
    OutputReport,
    RefinementReport,
    Report,
)


def verdict(report: Report) -> str:
    """The run in a few sentences: accuracy, layers, what to expect on a GPU, and what to do next."""
    return " ".join(list_verdict(report))


def list_verdict(report: Report) -> list[str]:
    """The sentences of the verdict, the most important one first."""
    shown = [_describe_result(report), outcome.describe_expectation(report), outcome.describe_next_step(report)]
    return [f"{sentence}." for sentence in shown if sentence]


def _describe_result(report: Report) -> str:
    """Accuracy, layers, and what failed, in one sentence without its full stop."""
    parts = [outcome.describe_accuracy(report), outcome.describe_layers(report)]
    if not report.layers and report.input.sha256 != report.output.sha256:  # two engines were timed
        parts = ["Layers were not looked at"]
    elif not report.sparse_layers and report.budget is not None and report.budget.verdict == "only dense":
        parts = [f"Only the dense model keeps the limit: none of {len(report.layers):,} linear layers is 2:4 sparse"]
    elif not report.sparse_layers:
        same = report.input.sha256 == report.output.sha256
        parts = [f"Nothing eligible: model.onnx is {'a byte copy of the input' if same else 'as dense as the input'}"]
    for said, gates in (
        ("gate failed", [gate for gate in report.gates if not gate.passed]),
        ("gate inconclusive", [gate for gate in report.gates if gate.passed and gate.verdict == "inconclusive"]),
    ):
        parts += [f"{said}: {', '.join(gate.name for gate in gates)}"] if gates else []
    parts += [f"failed: {', '.join(fault.stage for fault in report.faults)}"] if report.faults else []
    return "; ".join(parts)


def faults(report: Report) -> list[str]:
    """What failed after the layers were solved, a sentence each."""
    return [f"{fault.stage} failed, so that its figures are missing: {fault.message}." for fault in report.faults]


def worst_output(report: Report) -> tuple[str, str, str] | None:
    """Finds the output that is furthest from the dense one: what is told of it, its figure, and its name.

    An output with NaN comes first, then the lowest signal-to-noise ratio, then the lowest share of equal entries; None
    where no output was compared.
    """
    outputs = _sort_outputs(report.accuracy.outputs if report.accuracy else ())
    if not outputs or (outputs[0].not_compared and not outputs[0].not_finite):
        return None
    what = "worst output SNR" if outputs[0].has_snr and not outputs[0].not_finite else "worst output"
    return what, _output_row(outputs[0])[1], outputs[0].name


def _sort_outputs(outputs: Sequence[OutputReport]) -> list[OutputReport]:
    """Sorts outputs by how far they are from the dense ones, the furthest first; those not compared come last."""

    def rank(output: OutputReport) -> tuple[int, float]:
        if output.not_finite:
            return 0, -output.not_finite
        if output.has_snr:
            return 1, math.inf if output.snr_db is None else output.snr_db
        return (3, 0.0) if output.equal is None else (2, output.equal)

    return sorted(outputs, key=rank)


def warnings(report: Report) -> list[str]:
    """Every fault, what to do about a large loss, and every warning once; the one about random data comes first."""
    loss = [advice] if (advice := advise(report)) is not None else []
    random = [RANDOM_WARNING] if report.data is not None and report.data.is_random else []
    return list(dict.fromkeys([*faults(report), *loss, *random, *report.warnings]))


def reasons(report: Report) -> list[tuple[str, str]]:
    """The reasons why layers are dense, without the figure in brackets, and their counts; the most frequent first."""
    counted = Counter(layer.reason.partition(" (")[0] for layer in report.layers if layer.state == "dense")
    return [(reason, f"{count:,}") for reason, count in counted.most_common()]


def tables(report: Report) -> dict[str, Table]:
    """All tables but those of layers, by name; a table of what does not exist has no rows.

    Outputs are sorted by how far they are from the dense ones, the furthest first.
    """
    accuracy, data = report.accuracy or AccuracyReport(0, {}, {}, ()), report.data
    decides = report.refinement is not None and report.refinement.kept
    chosen = "blend, and whether refinement is kept" if decides else "blend, then masks and weights"
    parts = data and [
        ("fit", f"{data.fit:,}", "masks and weights", data.calibration),
        ("choice", f"{data.choice:,}", chosen, data.calibration),
        ("report", f"{data.report:,}", "accuracy, and nothing else", data.evaluation),
    ]
    files = [(file.path, f"{file.bytes:,} bytes", file.sha256) for file in (report.input, report.output)]
    on, header = f"on {accuracy.samples:,} samples", ("Output", "SNR", "Cosine", "Max. abs. error", "Arg-max agreement")
    images = any(output.psnr_db is not None for output in accuracy.outputs)
    outputs = [
        (*_output_row(output), *([_format_decibels(output.psnr_db)] if images else []))
        for output in _sort_outputs(accuracy.outputs)
    ]
    return {
        "gates": Table("Gates", ("Gate", "Measured", "Limit", "Verdict"), [_gate_row(gate) for gate in report.gates]),
        "metrics": Table(f"Accuracy {on}", ("Metric", "Dense", "Sparse", "Change"), _metric_rows(accuracy)),
        "outputs": Table(f"Outputs against dense {on}", (*header, *(["PSNR"] if images else [])), outputs),
        "budget": budget_tables.steps_table(report.budget),
        "spaces": permutation.list_spaces(report.permutation),
        "refinement": Table("Refinement of all layers together", ("", ""), _refinement_rows(report.refinement)),
        "data": Table("Data", ("Part", "Samples", "Used for", "Source"), parts or ()),
        "files": Table("Input and output", ("File", "Size", "SHA-256"), files),
        **engine_tables.tables(report),
    }


def _refinement_rows(refinement: RefinementReport | None) -> list[tuple[str, str]]:
    """The decision on the refinement, its reason, and the figures that it rests on."""
    if refinement is None:
        return []
    rows = [("Decision", f"{'kept' if refinement.kept else 'not kept'}: {refinement.reason}")]
    if refinement.before is not None and refinement.after is not None:
        both = f"{number(refinement.before, 4)} layer by layer, {number(refinement.after, 4)} refined"
        rows.append(("Objective of held-back samples", f"{both}, {refinement.samples:,} samples"))
    if refinement.curve:
        epochs = len({point.epoch for point in refinement.curve}) - 1
        work = f"{refinement.mode}, {epochs:,} epochs, {number(refinement.seconds)} s"
        back = f"; {refinement.taken_back:,} more were worse and taken back" if refinement.taken_back else ""
        rows.append(("Work", work + back))
    if refinement.masks_moved is not None:
        moved = f"{number(100 * refinement.masks_moved)} % of the surviving weights do not survive layer by layer"
        rows.append(("Masks that moved", moved))
    return rows


def figures(layer: LayerReport) -> tuple[str, str, str]:
    """K × N, parameters and relative error of a layer, as text; empty where unknown."""
    shape = "" if layer.k is None or layer.n is None else f"{layer.k:,} × {layer.n:,}"
    error = "" if layer.relative_error is None else f"{number(100 * layer.relative_error)} %"
    return shape, f"{layer.parameters:,}" if layer.parameters else "", error


def cost(report: Report) -> str:
    """The cost of calibration, as a multiple of one dense pass; empty where nothing ran."""
    run = report.executions
    if run is None or not run.dense_pass:
        return ""
    multiple = number(run.calibration / run.dense_pass)
    return f"{run.calibration:,} node executions in {run.stages:,} stages, {multiple} × one dense pass"


def describe_device(report: Report) -> str:
    """Which GPU the run computed on, and what was left to the host, without a full stop; empty for the CPU."""
    device = report.device
    if device is None or device.name == "cpu":
        return ""
    left = []
    for work in device.on_host:
        where = f" before {', '.join(work.layers)}" if work.layers else ""
        left.append(f"{work.work}{where} ({work.reason})")
    return f"{device.name} ({device.title})" + (f"; left to the host: {'; '.join(left)}" if left else "")


def gate_verdict(gate: Gate) -> str:
    """`passed` or `failed`, and whether that is more than chance."""
    said = "passed" if gate.passed else "failed"
    return f"inconclusive, {said}" if gate.verdict == "inconclusive" else said


def _gate_row(gate: Gate) -> tuple[str, str, str, str]:
    return gate.name, gate_value(gate), gate_limit(gate), gate_verdict(gate)


def gate_sentence(gate: Gate) -> str:
    """Verdict, measured value and limit of a gate, in one sentence without its full stop."""
    return f"{gate_verdict(gate)}: {gate_value(gate)}, limit {gate_limit(gate)}"


def gate_value(gate: Gate) -> str:
    """What was measured, with its interval where there is one."""
    if gate.value is None:
        return "not measured"
    digits = 2 if gate.unit == "points" else 3  # as the change of an accuracy has them elsewhere
    return f"{number(gate.value, 5)} {gate.unit}".rstrip() + interval(gate.low, gate.high, digits)


def gate_limit(gate: Gate) -> str:
    """What is allowed."""
    least = gate.name.startswith("min") or gate.unit == "layers"  # more sparse layers are always better
    return f"{'at least' if least else 'at most'} {number(gate.limit, 5)} {gate.unit}".rstrip()


def _metric_rows(accuracy: AccuracyReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    intervals = {change.metric: change for change in accuracy.changes}
    for name, dense in accuracy.dense.items():
        change = round(accuracy.sparse[name] - dense, 9)  # 97.6 − 97.2 is not quite 0.4
        unit, points = units(name)
        both = (f"{number(value, 4)}{unit}" for value in (dense, accuracy.sparse[name]))
        rows.append((metric_name(name), *both, signed_number(change, points) + _format_interval(intervals.get(name))))
    return rows


def _format_interval(change: Change | None) -> str:
    return "" if change is None else f", {change_interval(change.low, change.high)}"


def _output_row(output: OutputReport) -> tuple[str, ...]:
    agreement = "" if output.argmax_agreement is None else f"{number(100 * output.argmax_agreement, 4)} %"
    cosine, error = (
        "" if value is None else number(value, digits)
        for value, digits in ((output.cosine, 6), (output.max_abs_error, 3))
    )
    return output.name, _output_figure(output), cosine, error, agreement


def _output_figure(output: OutputReport) -> str:
    """The signal-to-noise ratio, or what is known of an output that has none."""
    if output.not_finite:
        return f"NaN or Inf in {output.not_finite:,} entries"
    if output.not_compared:
        return f"not compared: {output.not_compared}"
    if output.equal is not None:
        return f"{number(100 * output.equal, 4)} % of entries equal"
    if output.snr_db is None:
        return "∞ (equal)"
    return _format_decibels(output.snr_db) + interval(output.snr_low, output.snr_high)


def _format_decibels(value: float | None) -> str:
    return "" if value is None else f"{number(value)} dB"
