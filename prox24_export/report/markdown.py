"""`summary.md`: the report for a CI summary, under 60 kB; and the sentences and tables that every page shares."""

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from prox24_export.report.model import AccuracyReport, Gate, LayerReport, OutputReport, RefinementReport, Report

RANDOM_WARNING = (
    "No calibration data were given: inputs were random, so the masks are not based on data. "
    "Give --calibration before you rely on this model."
)
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


class Table(NamedTuple):
    """Plain text; whoever renders it escapes it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. Rows beyond a table's budget in bytes are counted, not shown."""
    shared = tables(report)
    layers = sorted(report.sparse_layers, key=lambda layer: -(layer.relative_error or 0))
    pruned = [(layer.name, layer.op, *figures(layer), "; ".join(layer.notes)) for layer in layers]
    dense = [(layer.name, layer.op, layer.reason) for layer in report.layers if layer.state == "dense"]
    header = ("Layer", "Operator", "K × N", "Parameters", "Relative error", "Notes")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"**{_text(verdict(report), 400)}**",
        *_fit([f"\n> **Warning:** {_text(text, 400)}" for text in warnings(report)], 4_000, "warnings"),
        *_table(shared["gates"]),
        *_table(shared["metrics"]),
        *_table(shared["outputs"]),
        *_table(shared["refinement"]),
        *_table(Table(f"Sparse layers ({len(layers):,}), worst relative error first", header, pruned), 24_000),
        *_table(Table("Why layers stay dense", ("Reason", "Layers"), reasons(report))),
        *_table(Table(f"Dense layers ({len(dense):,})", ("Layer", "Operator", "Reason"), dense), 10_000),
        *_table(shared["data"]),
        *_table(shared["files"]),
        *([f"\nCalibration took {cost(report)}."] if cost(report) else []),
        "\n" + _text(f"{report.tool}, started {report.started}. Versions: {versions}.", 2_000),
    ]
    return "\n".join(lines) + "\n"


def verdict(report: Report) -> str:
    """The run in one sentence."""
    pruned, shared = len(report.sparse_layers), tables(report)
    parts = [f"{pruned:,} of {len(report.layers):,} linear layers {'is' if pruned == 1 else 'are'} 2:4 sparse"]
    if not pruned:
        same = report.input.sha256 == report.output.sha256
        parts = [f"Nothing eligible: model.onnx is {'a byte copy of the input' if same else 'as dense as the input'}"]
    elif shared["metrics"].rows:
        name, dense, sparse, change = shared["metrics"].rows[0]
        parts += [f"{name} {sparse} against {dense} dense ({change})"]
    elif shared["outputs"].rows:
        parts += [f"worst output SNR {shared['outputs'].rows[0][1]}"]
    else:
        parts += ["accuracy was not measured"]
    failed = [gate.name for gate in report.gates if not gate.passed]
    return "; ".join([*parts, *([f"gate failed: {', '.join(failed)}"] if failed else [])]) + "."


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
    parts = data and [
        ("fit", f"{data.fit:,}", "masks and weights", data.calibration),
        ("choice", f"{data.choice:,}", "blend, then masks and weights", data.calibration),
        ("report", f"{data.report:,}", "accuracy, and nothing else", data.evaluation),
    ]
    files = [(file.path, f"{file.bytes:,} bytes", file.sha256) for file in (report.input, report.output)]
    on, header = f"on {accuracy.samples:,} samples", ("Output", "SNR", "Cosine", "Max. abs. error", "Arg-max agreement")
    return {
        "gates": Table("Gates", ("Gate", "Measured", "Limit", "Verdict"), [_gate(gate) for gate in report.gates]),
        "metrics": Table(f"Accuracy {on}", ("Metric", "Dense", "Sparse", "Change"), _metrics(accuracy)),
        "outputs": Table(f"Outputs against dense {on}", header, [_output(output) for output in by_snr]),
        "refinement": Table("Refinement of all layers together", ("", ""), _refinement(report.refinement)),
        "data": Table("Data", ("Part", "Samples", "Used for", "Source"), parts or ()),
        "files": Table("Input and output", ("File", "Size", "SHA-256"), files),
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


def number(value: float, digits: int = 3) -> str:
    """Significant digits, thousands separated, a real minus sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def _gate(gate: Gate) -> tuple[str, str, str, str]:
    value = "not measured" if gate.value is None else f"{number(gate.value, 5)} {gate.unit}"
    bound = f"{'at least' if gate.name.startswith('min') else 'at most'} {number(gate.limit, 5)} {gate.unit}"
    return gate.name, value, bound, "passed" if gate.passed else "failed"


def _metrics(accuracy: AccuracyReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, dense in accuracy.dense.items():
        change = round(accuracy.sparse[name] - dense, 9)  # 97.6 − 97.2 is not quite 0.4
        sign = "+" if change > 0 else "" if change else "±"
        unit, points = (" %", " points") if name.startswith("top") else ("", "")
        both = (f"{number(value, 4)}{unit}" for value in (dense, accuracy.sparse[name]))
        rows.append((name.replace("top", "top-"), *both, f"{sign}{number(change)}{points}"))
    return rows


def _output(output: OutputReport) -> tuple[str, ...]:
    snr = "∞ (equal)" if output.snr_db is None else f"{number(output.snr_db)} dB"
    agreement = "" if output.argmax_agreement is None else f"{number(100 * output.argmax_agreement, 4)} %"
    return output.name, snr, number(output.cosine, 6), number(output.max_abs_error), agreement


def _table(table: Table, budget: int = 4_000) -> list[str]:
    if not table.rows:
        return []
    first = _code if table.header[0] in {"Layer", "Output"} else _text
    rows = [f"|{'|'.join((first(row[0]), *map(_text, row[1:])))}|" for row in table.rows]
    head = [f"|{'|'.join(table.header)}|", f"|{'---|' * len(table.header)}"]
    return ["", f"## {table.title}", "", *head, *_fit(rows, budget, "rows")]


def _fit(lines: Sequence[str], budget: int, what: str) -> list[str]:
    kept = bisect_right(list(accumulate(len(line.encode()) + 1 for line in lines)), budget)
    rest = len(lines) - kept
    return [*lines[:kept], *([f"\n{rest:,} more {what} left out; report.json has them all."] if rest else [])]


def _text(text: str, longest: int = 160) -> str:
    """One line of plain words, whatever they contain; long ones lose their middle."""
    return _SPECIAL.sub(lambda found: "&#92;" if found[0] == "\\" else f"\\{found[0]}", _clip(text, longest))


def _code(text: str) -> str:
    """A code span that the name cannot end."""
    name = _clip(text, 160).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{fence} {name} {fence}" if "`" in name else f"`{name}`"


def _clip(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[-longest // 2 :]}"
