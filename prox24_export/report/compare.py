"""Compares two runs: what changed from the first to the second, as text for a terminal and as Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from prox24_export.output.manifest import TOOL
from prox24_export.report import content, engine_tables
from prox24_export.report.markdown_table import escape_text, fit, write_table
from prox24_export.report.tables import Table, metric_name, number, signed_number, units
from prox24_export.results.engine import LatencyPoint
from prox24_export.results.report import AccuracyReport, LayerReport, Report

WIDTH = 100
ABSENT = "absent"


class RunComparison(NamedTuple):
    """What changed from one run to another.

    Attributes:
        summary: What changed, in one sentence.
        doubts: Why figures of the two runs may differ without one model being better.
        tables: Tables of plain text; those without rows are left out.
    """

    summary: str
    doubts: Sequence[str]
    tables: Sequence[Table]


def compare(before: Report, after: Report) -> RunComparison:
    """Compares two reports; of layers, gates and settings, only those that changed are listed."""
    tables = [
        Table("Layers that changed", ("Layer", "Before", "After", "Why"), list(_layers(before, after))),
        Table("Gates that changed", ("Gate", "Before", "After"), list(_gates(before, after))),
        Table("Accuracy of the sparse model", ("Figure", "Before", "After", "Change"), list(_accuracy(before, after))),
        Table("Latency", ("Figure", "Before", "After", "Change"), list(_latency(before, after))),
        Table("Size", ("Figure", "Before", "After", "Change"), list(_size(before, after))),
        Table("Settings that differ", ("Setting", "Before", "After"), list(_settings(before, after))),
    ]
    changed = len(tables[0].rows)
    layers = f"{changed:,} layer{' differs' if changed == 1 else 's differ'}"
    sizes = f"{len(before.sparse_layers):,} sparse layers before, {len(after.sparse_layers):,} after"
    return RunComparison(f"{layers}; {sizes}.", list(_doubts(before, after)), [table for table in tables if table.rows])


def render_markdown(before: Report, after: Report) -> str:
    """The comparison as GitHub-flavoured Markdown."""
    found = compare(before, after)
    lines = [
        f"**{escape_text(found.summary)}**",
        "",
        f"Before: {escape_text(_describe(before))}",
        "",
        f"After: {escape_text(_describe(after))}",
        *fit([f"\n> **Note:** {escape_text(doubt, 400)}" for doubt in found.doubts], 3_000, "notes"),
        *(line for table in found.tables for line in write_table(table, 8_000)),
    ]
    return "\n".join(lines) + "\n"


def render_text(before: Report, after: Report) -> str:
    """The comparison as lines of at most 100 columns; long names are folded, nothing is left out."""
    from rich.console import Console  # noqa: PLC0415 (only a terminal's reader needs it)
    from rich.table import Table as Columns  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    found = compare(before, after)
    written = StringIO()
    console = Console(file=written, width=WIDTH, highlight=False, markup=False, emoji=False, no_color=True)
    said = [found.summary, f"before: {_describe(before)}", f"after: {_describe(after)}"]
    for sentence in [*said, *(f"note: {doubt}" for doubt in found.doubts)]:
        console.print(Text(_one_line(sentence)))
    for table in found.tables:
        columns = Columns(box=None, pad_edge=False, title_justify="left")
        for title in table.header:
            columns.add_column(title, overflow="fold")
        for row in table.rows:
            columns.add_row(*(Text(_one_line(cell)) for cell in row))
        console.print(f"\n{table.title}")
        console.print(columns)
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())


def _describe(report: Report) -> str:
    return f"{report.output.path}, started {report.started}"


def _one_line(cell: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(cell.split()))


def _doubts(before: Report, after: Report) -> Iterator[str]:
    if before.input.sha256 != after.input.sha256:
        yield f"the dense models differ: {before.input.path} and {after.input.path}"
    versions = [report.versions.get(TOOL, "unknown") for report in (before, after)]
    if versions[0] != versions[1]:
        yield f"version {versions[0]} of {TOOL} before, {versions[1]} after"
    measured = [(report.data.evaluation, report.data.report) if report.data else None for report in (before, after)]
    if measured[0] != measured[1]:
        said = [f"{entry[1]:,} samples of {entry[0]}" if entry else "nothing" for entry in measured]
        yield f"accuracy was measured on {said[0]} before, on {said[1]} after"
    timed = [_timing_engine(report) for report in (before, after)]
    if timed[0] != timed[1]:
        yield f"latency was measured with {timed[0]} before, with {timed[1]} after: it is not compared"
    invalid = [
        report for report in (before, after) if report.engine and not all(p.valid for p in report.engine.latency)
    ]
    if invalid:
        yield "a latency that was not valid is not compared"


def _timing_engine(report: Report) -> str:
    engine = report.engine
    if engine is None or not engine.latency:
        return "nothing"
    return (
        f"{engine_tables.format_engine(engine)} on {engine.device}"
        if engine.device
        else engine_tables.format_engine(engine)
    )


def _layers(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    """Layers whose state changed or that only one run has; names that occur twice are told apart by their order."""
    old, new = _index_by_name(before.layers), _index_by_name(after.layers)
    for key in [*old, *(key for key in new if key not in old)]:
        first, second = old.get(key), new.get(key)
        states = [layer.state if layer else ABSENT for layer in (first, second)]
        if states[0] != states[1]:
            why = (second.reason if second else "") or (first.reason if first else "")
            yield key[0], *states, f"no longer: {why}" if states[1] == "sparse" and why else why


def _index_by_name(layers: Sequence[LayerReport]) -> dict[tuple[str, int], LayerReport]:
    found: dict[tuple[str, int], LayerReport] = {}
    counted: dict[str, int] = {}
    for layer in layers:
        counted[layer.name] = counted.get(layer.name, 0) + 1
        found[layer.name, counted[layer.name]] = layer
    return found


def _gates(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    said = [
        {
            gate.name: f"{content.gate_verdict(gate)} ({content.gate_value(gate)}, limit {content.gate_limit(gate)})"
            for gate in report.gates
        }
        for report in (before, after)
    ]
    verdicts = [{gate.name: content.gate_verdict(gate) for gate in report.gates} for report in (before, after)]
    for name in dict.fromkeys([*said[0], *said[1]]):
        if verdicts[0].get(name) != verdicts[1].get(name):
            yield name, said[0].get(name, ABSENT), said[1].get(name, ABSENT)


def _accuracy(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    nothing = AccuracyReport(0, {}, {}, ())
    old, new = before.accuracy or nothing, after.accuracy or nothing
    for name in dict.fromkeys([*old.sparse, *new.sparse]):
        figures = old.sparse.get(name), new.sparse.get(name)
        yield _figure_row(metric_name(name), *figures, *units(name))
    ratios = [
        {
            output.name: math.inf if output.snr_db is None else output.snr_db
            for output in accuracy.outputs
            if output.has_snr
        }
        for accuracy in (old, new)
    ]
    for name in dict.fromkeys([*ratios[0], *ratios[1]]):
        yield _figure_row(f"SNR of {name}", ratios[0].get(name), ratios[1].get(name), " dB", " dB")
    shares = [{output.name: output.equal for output in accuracy.outputs} for accuracy in (old, new)]
    for name in dict.fromkeys([*shares[0], *shares[1]]):
        first, second = (None if (share := found.get(name)) is None else 100 * share for found in shares)
        if first is not None or second is not None:
            yield _figure_row(f"equal entries of {name}", first, second, " %", " points")


def _latency(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    if _timing_engine(before) != _timing_engine(after):
        return
    old, new = _valid_points(before), _valid_points(after)
    for shapes in (key for key in old if key in new):
        first, second = old[shapes], new[shapes]
        yield _relative_row(f"dense, {shapes}", first.dense.median, second.dense.median, " ms")
        yield _relative_row(f"sparse, {shapes}", first.sparse.median, second.sparse.median, " ms")
        both = engine_tables.format_ratio(first.speedup), engine_tables.format_ratio(second.speedup)
        yield f"speed-up, {shapes}", *both, _per_cent(first.speedup.value, second.speedup.value)


def _valid_points(report: Report) -> dict[str, LatencyPoint]:
    points = report.engine.latency if report.engine else ()
    return {engine_tables.format_shapes(point): point for point in points if point.valid}


def _size(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    yield _count_row("bytes of the sparse model", before.output.bytes, after.output.bytes)
    counts = [len(report.sparse_layers) for report in (before, after)]
    yield "sparse layers", *(f"{count:,}" for count in counts), signed_number(counts[1] - counts[0])
    pruned = [sum(layer.parameters for layer in report.sparse_layers) for report in (before, after)]
    yield _count_row("parameters in sparse layers", pruned[0], pruned[1])


def _settings(before: Report, after: Report) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys([*before.settings, *after.settings]):
        said = [_format_setting(report.settings, name) for report in (before, after)]
        if said[0] != said[1]:
            yield name, *said


def _format_setting(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return ABSENT
    value = settings[name]
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def _figure_row(name: str, old: float | None, new: float | None, unit: str, points: str) -> tuple[str, ...]:
    """Two figures and their difference, which is empty where one is missing or both are infinite."""
    said = ["not measured" if value is None else f"{number(value, 4)}{unit}" for value in (old, new)]
    change = math.nan if old is None or new is None else round(new - old, 9)
    return name, *said, "" if math.isnan(change) else signed_number(change, points)


def _relative_row(name: str, old: float, new: float, unit: str) -> tuple[str, ...]:
    return name, f"{number(old, 4)}{unit}", f"{number(new, 4)}{unit}", _per_cent(old, new)


def _count_row(name: str, old: int, new: int) -> tuple[str, ...]:
    return name, f"{old:,}", f"{new:,}", _per_cent(old, new)


def _per_cent(old: float, new: float) -> str:
    return signed_number(round(100 * (new / old - 1), 9), " %") if old else ""
