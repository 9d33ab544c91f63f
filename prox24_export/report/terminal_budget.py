"""Sensitivity and budget as the terminal shows them, in at most 100 columns."""

from prox24_export.report import budget_tables
from prox24_export.results.budget import BudgetPoint, BudgetReport, SensitivityReport

WIDTH = 100
NAME = 38  # columns of a layer's name; the end of a longer one is shown, since it tells layers apart
PER_CENT = 100


def sensitivity_table(report: SensitivityReport) -> str:
    """What `--sensitivity` prints: every layer in network order, and the loss at the outputs that it causes."""
    measures = ", ".join(dict.fromkeys(report.measures))
    whole = (
        f"loss at the outputs ({measures}) {report.pruned:.4g} with all {len(report.units)} pruned, 0 with none pruned"
    )
    lines = [
        f"{whole}, on {report.samples} samples",
        f"{'layer':<{NAME}} {'stage':>5} {'weights':>14} {'gain share':>10} {'with it dense':>14} {'pruned alone':>13}",
    ]
    lines += [
        f"{_pad(unit.name)} {unit.stage:>5} {unit.parameters:>14,} "
        f"{PER_CENT * unit.share:>8.1f} % {unit.restored:>14.4g} {unit.alone:>13.4g}"
        for unit in report.units
    ]
    return _join(lines)


def budget_table(report: BudgetReport) -> str:
    """The main steps of the search, and which layers it leaves dense; the page has every variant."""
    lines = [f"budget: {budget_tables.verdict(report)}"]
    steps = budget_tables.main_steps(report)
    if steps:
        lines.append(f"  {'dense':>5} {'weights':>11} {'change':>10} {'error':>8} {'limit':>8}       order")
    lines += [_format_point(point) for point in steps]
    if others := len(report.curve) - len(steps):
        lines.append(f"  {others:,} more variant{'' if others == 1 else 's'} measured: report.html has all")
    decisions = budget_tables.decisions(report)
    for name in report.dense:
        lines.append(f"  dense: {shorten(name, WIDTH - len('  dense: '))}")
        if name in decisions:
            lines.append(f"    {decisions[name].reason.split('; ')[0]}")
    return _join(lines)


def _format_point(point: BudgetPoint) -> str:
    fits = "keeps " if point.fits else "misses"
    order = f"{point.order}{' (solved again)' if point.solved_again else ''}"
    figures = f"{point.value:>10.4g} {point.error:>8.2g} {point.limit:>8.4g}"
    row = f"  {point.layers:>5} {point.parameters:>11,} {figures} {fits} "
    return row + shorten(order, WIDTH - len(row))


def shorten(name: str, width: int) -> str:
    """Puts a name on one line; of a name wider than `width` columns only the end is kept."""
    from rich.cells import cell_len  # noqa: PLC0415 (only a table needs it)

    line = " ".join(name.split())
    if cell_len(line) <= width:
        return line
    start = next(place for place in range(len(line) + 1) if cell_len(line[place:]) < width)
    return f"…{line[start:]}"


def _pad(name: str) -> str:
    """Pads or shortens a layer's name to the width of its column; a letter may take two columns."""
    from rich.cells import set_cell_size  # noqa: PLC0415 (only a table needs it)

    return set_cell_size(shorten(name, NAME), NAME)


def _join(lines: list[str]) -> str:
    """Joins lines, each cut to at most 100 columns."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415 (only a table needs it)

    cut = (line if cell_len(line) <= WIDTH else set_cell_size(line, WIDTH) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in cut)
