"""`summary.md`: the report for a CI summary, under 60 kB; and the sentences and tables that every page shares."""

import math
from collections import Counter

from prox24_export.report import budget_tables, engine_tables
from prox24_export.report.markdown_table import (
    Table,
    code,
    fit,
    interval,
    metric_name,
    number,
    signed,
    text,
    units,
    write,
)
from prox24_export.results.budget import BudgetReport
from prox24_export.results.report import (
    RANDOM_WARNING,
    AccuracyReport,
    Change,
    Gate,
    LayerReport,
    OutputReport,
    RefinementReport,
    Report,
)

__all__ = (  # figures and `Table` are read through here by the other writers
    "Table",
    "cost",
    "figures",
    "gate_limit",
    "gate_value",
    "gate_verdict",
    "metric_name",
    "number",
    "reasons",
    "render",
    "tables",
    "units",
    "verdict",
    "warnings",
)

LAYERS, WARNINGS, REASONS = 12_000, 3_000, 5_000  # bytes of rows; together with the tables' all stays under 60 kB


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. Rows beyond a table's budget in bytes are counted, not shown."""
    shared = tables(report)
    layers = sorted(report.sparse_layers, key=lambda layer: -(layer.relative_error or 0))
    pruned = [(layer.name, layer.op, *figures(layer), "; ".join(layer.notes)) for layer in layers]
    dense = [(layer.name, layer.op, layer.reason) for layer in report.layers if layer.state == "dense"]
    header = ("Layer", "Operator", "K × N", "Parameters", "Relative error", "Notes")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"**{text(verdict(report), 400)}**",
        *fit([f"\n> **Warning:** {text(entry, 400)}" for entry in warnings(report)], WARNINGS, "warnings"),
        *write(shared["gates"]),
        *write(shared["metrics"]),
        *write(shared["outputs"]),
        *_engine(report, shared),
        *_budget(report.budget, shared["budget"]),
        *write(shared["refinement"]),
        *write(Table(f"Sparse layers ({len(layers):,}), worst relative error first", header, pruned), LAYERS),
        *write(Table("Why layers stay dense", ("Reason", "Layers"), reasons(report))),
        *write(Table(f"Dense layers ({len(dense):,})", ("Layer", "Operator", "Reason"), dense), REASONS),
        *write(shared["data"]),
        *write(shared["files"]),
        *([f"\nCalibration took {cost(report)}."] if cost(report) else []),
        "\n" + text(f"{report.tool}, started {report.started}. Versions: {versions}.", 800),
    ]
    return "\n".join(lines) + "\n"


def _budget(budget: BudgetReport | None, curve: Table) -> list[str]:
    """Verdict, layers left dense, and the curve: at most 2,000 bytes, whatever the names are made of."""
    if budget is None:
        return []
    said = budget_tables.verdict(budget)
    names = () if budget.verdict == "only dense" else budget.dense
    listed = fit([f"- {code(name)}" for name in names], 400, "layers")
    return [
        "\n## Accuracy budget\n",
        f"{text(said[0].upper() + said[1:], 200)}.",
        *(["\nLeft dense to keep the budget:\n", *listed] if listed else []),
        *write(curve, 700, 60)[2:],  # under the heading above
    ]


def _engine(report: Report, shared: dict[str, Table]) -> list[str]:
    """Latency or why there is none, states of layers, and the estimate."""
    said, bound = engine_tables.speedup(report), engine_tables.estimate(report.estimate)
    return [
        *([f"\n{text(said[0].upper() + said[1:], 400)}."] if said else []),
        *([f"\n*Estimate*, not a measurement: {text(bound, 400)}"] if bound else []),
        *write(shared["latency"], 3_500, 300),
        *write(shared["states"]),
        *write(shared["missing"], REASONS, 300),
        *write(shared["disagreements"]),
        *write(shared["precision"]),
        *write(shared["kept"]),
        *write(shared["estimate"]),
    ]


def verdict(report: Report) -> str:
    """The run in one sentence."""
    pruned, shared = len(report.sparse_layers), tables(report)
    parts = [f"{pruned:,} of {len(report.layers):,} linear layers {'is' if pruned == 1 else 'are'} 2:4 sparse"]
    if report.budget is not None and report.budget.dense:
        parts = [f"{parts[0]}, {len(report.budget.dense):,} left dense to keep the budget"]
    if not report.layers and report.input.sha256 != report.output.sha256:  # two engines were timed
        parts = ["Layers were not looked at"]
    elif not pruned and report.budget is not None and report.budget.verdict == "only dense":
        parts = [f"Only the dense model keeps the limit: none of {len(report.layers):,} linear layers is 2:4 sparse"]
    elif not pruned:
        same = report.input.sha256 == report.output.sha256
        parts = [f"Nothing eligible: model.onnx is {'a byte copy of the input' if same else 'as dense as the input'}"]
    elif shared["metrics"].rows:
        name, dense, sparse, change = shared["metrics"].rows[0]
        parts += [f"{name} {sparse} against {dense} dense ({change})"]
    elif shared["outputs"].rows:
        parts += [f"worst output SNR {shared['outputs'].rows[0][1]}"]
    else:
        parts += ["accuracy was not measured"]
    if report.engine is not None and report.engine.latency and not report.engine.not_measured:
        parts += [engine_tables.speedup(report)]
    for said, gates in (
        ("gate failed", [gate for gate in report.gates if not gate.passed]),
        ("gate inconclusive", [gate for gate in report.gates if gate.passed and gate.verdict == "inconclusive"]),
    ):
        parts += [f"{said}: {', '.join(gate.name for gate in gates)}"] if gates else []
    return "; ".join(parts) + "."


def warnings(report: Report) -> list[str]:
    """Every warning once, the one about random data first."""
    random = [RANDOM_WARNING] if report.data is not None and report.data.is_random else []
    return list(dict.fromkeys([*random, *report.warnings]))


def reasons(report: Report) -> list[tuple[str, str]]:
    """Reasons of dense layers without the figure in brackets, and how often; most frequent first."""
    counted = Counter(layer.reason.partition(" (")[0] for layer in report.layers if layer.state == "dense")
    return [(reason, f"{count:,}") for reason, count in counted.most_common()]


def tables(report: Report) -> dict[str, Table]:
    """Everything but the layers; outputs by SNR, worst first; a table of what does not exist has no rows."""
    accuracy, data = report.accuracy or AccuracyReport(0, {}, {}, ()), report.data
    by_snr = sorted(accuracy.outputs, key=lambda output: math.inf if output.snr_db is None else output.snr_db)
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
    outputs = [(*_output(output), *([_decibels(output.psnr_db)] if images else [])) for output in by_snr]
    return {
        "gates": Table("Gates", ("Gate", "Measured", "Limit", "Verdict"), [_gate(gate) for gate in report.gates]),
        "metrics": Table(f"Accuracy {on}", ("Metric", "Dense", "Sparse", "Change"), _metrics(accuracy)),
        "outputs": Table(f"Outputs against dense {on}", (*header, *(["PSNR"] if images else [])), outputs),
        "budget": budget_tables.table(report.budget),
        "refinement": Table("Refinement of all layers together", ("", ""), _refinement(report.refinement)),
        "data": Table("Data", ("Part", "Samples", "Used for", "Source"), parts or ()),
        "files": Table("Input and output", ("File", "Size", "SHA-256"), files),
        **engine_tables.tables(report),
    }


def _refinement(refinement: RefinementReport | None) -> list[tuple[str, str]]:
    """Decision, its reason, and what it rests on."""
    if refinement is None:
        return []
    rows = [("Decision", f"{'kept' if refinement.kept else 'not kept'}: {refinement.reason}")]
    if refinement.before is not None and refinement.after is not None:
        both = f"{number(refinement.before, 4)} layer by layer, {number(refinement.after, 4)} refined"
        rows.append(("Objective of held-back samples", f"{both}, {refinement.samples:,} samples"))
    if refinement.curve:
        epochs = len({point.epoch for point in refinement.curve}) - 1
        rows.append(("Work", f"{refinement.mode}, {epochs:,} epochs, {number(refinement.seconds)} s"))
    return rows


def figures(layer: LayerReport) -> tuple[str, str, str]:
    """K × N, parameters and relative error; empty where unknown."""
    shape = "" if layer.k is None or layer.n is None else f"{layer.k:,} × {layer.n:,}"
    error = "" if layer.relative_error is None else f"{number(100 * layer.relative_error)} %"
    return shape, f"{layer.parameters:,}" if layer.parameters else "", error


def cost(report: Report) -> str:
    """Calibration as a multiple of one dense pass; empty where nothing ran."""
    run = report.executions
    if run is None or not run.dense_pass:
        return ""
    multiple = number(run.calibration / run.dense_pass)
    return f"{run.calibration:,} node executions in {run.stages:,} stages, {multiple} × one dense pass"


def gate_verdict(gate: Gate) -> str:
    """`passed` or `failed`, and whether that is more than chance."""
    said = "passed" if gate.passed else "failed"
    return f"inconclusive, {said}" if gate.verdict == "inconclusive" else said


def _gate(gate: Gate) -> tuple[str, str, str, str]:
    return gate.name, gate_value(gate), gate_limit(gate), gate_verdict(gate)


def gate_value(gate: Gate) -> str:
    """What was measured, with its interval where there is one."""
    if gate.value is None:
        return "not measured"
    return f"{number(gate.value, 5)} {gate.unit}".rstrip() + interval(gate.low, gate.high)


def gate_limit(gate: Gate) -> str:
    """What is allowed."""
    least = gate.name.startswith("min") or gate.unit == "layers"  # more sparse layers are always better
    return f"{'at least' if least else 'at most'} {number(gate.limit, 5)} {gate.unit}".rstrip()


def _metrics(accuracy: AccuracyReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    intervals = {change.metric: change for change in accuracy.changes}
    for name, dense in accuracy.dense.items():
        change = round(accuracy.sparse[name] - dense, 9)  # 97.6 − 97.2 is not quite 0.4
        unit, points = units(name)
        both = (f"{number(value, 4)}{unit}" for value in (dense, accuracy.sparse[name]))
        rows.append((metric_name(name), *both, signed(change, points) + _known(intervals.get(name))))
    return rows


def _known(change: Change | None) -> str:
    return "" if change is None else f", 95 % interval {signed(change.low)} to {signed(change.high)}"


def _output(output: OutputReport) -> tuple[str, ...]:
    snr = "∞ (equal)" if output.snr_db is None else _decibels(output.snr_db) + interval(output.snr_low, output.snr_high)
    agreement = "" if output.argmax_agreement is None else f"{number(100 * output.argmax_agreement, 4)} %"
    return output.name, snr, number(output.cosine, 6), number(output.max_abs_error), agreement


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{number(value)} dB"
