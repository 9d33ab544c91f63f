"""Sensitivity and budget as the terminal shows them, at most 100 columns wide."""

from prox24_export.report.budget_model import BudgetPoint, BudgetReport, SensitivityReport

WIDTH = 100
NAME = 40  # columns of a layer's name; of a longer one the end is shown, which tells layers apart
PER_CENT = 100


def sensitivity_table(report: SensitivityReport) -> str:
    """What `--sensitivity` prints: every layer in network order, and what the outputs gain or lose by it."""
    measures = ", ".join(dict.fromkeys(report.measures))
    whole = f"loss at the outputs ({measures}) {report.pruned:.4g} with all {len(report.units)} pruned, 0 dense"
    lines = [
        f"{whole}, on {report.samples} samples",
        f"{'layer':<{NAME}} {'stage':>5} {'weights':>10} {'gain share':>10} {'with it dense':>14} {'pruned alone':>13}",
    ]
    lines += [
        f"{shortened(unit.name, NAME):<{NAME}} {unit.stage:>5} {unit.parameters:>10,} "
        f"{PER_CENT * unit.share:>8.1f} % {unit.restored:>14.4g} {unit.alone:>13.4g}"
        for unit in report.units
    ]
    return _joined(lines)


def budget_table(report: BudgetReport) -> str:
    """What the search measured, step by step, and which layers it leaves dense."""
    lines = [f"budget: {_verdict(report)}"]
    if report.curve:
        lines.append(f"  {'dense':>5} {'weights':>11} {'change':>10} {'error':>8} {'limit':>8}       order")
    lines += [_point(point) for point in report.curve]
    reasons = {decision.name: decision.reason.split("; ")[0] for decision in report.decisions}
    for name in report.dense:
        lines.append(f"  dense: {shortened(name, WIDTH - len('  dense: '))}")
        if name in reasons:
            lines.append(f"    {reasons[name][: WIDTH - 4]}")
    return _joined(lines)


def _verdict(report: BudgetReport) -> str:
    if report.verdict == "not needed":
        return f"every layer may be sparse, by {report.samples} samples that are in no figure below"
    if report.verdict == "only dense":
        return f"only the dense model keeps the limit, by {report.samples} samples"
    again = ", the others solved again" if report.solved_again else ""
    return f"{len(report.dense)} layers ({report.parameters:,} weights) left dense{again}, by {report.samples} samples"


def _point(point: BudgetPoint) -> str:
    fits = "keeps " if point.fits else "misses"
    order = f"{point.order}{' (solved again)' if point.solved_again else ''}"
    figures = f"{point.value:>10.4g} {point.error:>8.2g} {point.limit:>8.4g}"
    return f"  {point.layers:>5} {point.parameters:>11,} {figures} {fits} {order}"


def shortened(name: str, width: int) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]


def _joined(lines: list[str]) -> str:
    """Lines of at most 100 columns."""
    return "".join(f"{line[:WIDTH].rstrip()}\n" for line in lines)
