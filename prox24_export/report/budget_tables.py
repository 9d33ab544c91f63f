"""An accuracy budget as every page shows it: the verdict, the curve of one order, and the decision on each layer."""

import math
from collections.abc import Mapping, Sequence

from prox24_export.report.tables import Table, metric_name, number, units
from prox24_export.results.budget import CONFIRMING, BudgetDecision, BudgetPoint, BudgetReport

HEADER = ("Dense", "Weights", "Change for the worse", "Limit", "Verdict", "Variant")


def verdict(report: BudgetReport) -> str:
    """How many layers are left dense, in one sentence without its full stop; short enough for a terminal's line."""
    if report.verdict == "not needed":
        return f"every layer may be sparse, by {report.samples:,} samples that are in no figure of the report"
    if report.verdict == "only dense":
        return f"only the dense model keeps the limit, by {report.samples:,} samples"
    again = ", the others solved again" if report.solved_again else ""
    layers = f"{len(report.dense):,} layer{'' if len(report.dense) == 1 else 's'}"
    return f"{layers} ({report.parameters:,} weights) left dense{again}, by {report.samples:,} samples"


def margin(report: BudgetReport) -> str:
    """What a variant has to keep within the limit, in one sentence."""
    errors = f"{number(report.errors)} standard error{'' if report.errors == 1 else 's'}"
    return (
        f"A variant keeps the limit where its change for the worse and {errors} together are within it; the error of "
        "counting hits takes half of the limit at most."
    )


def decisions(report: BudgetReport | None) -> Mapping[str, BudgetDecision]:
    """The decision on each layer, by node name; the layers of one unit share theirs."""
    if report is None:
        return {}
    told = {decision.name: decision for decision in report.decisions}
    return {layer: told[unit.name] for unit in report.sensitivity.units if unit.name in told for layer in unit.layers}


def order(report: BudgetReport) -> str:
    """The order that led to the chosen variant, else the one with most points; empty where no order was searched.

    The layers of an order are then tried sparse again one by one, and with all others solved again. Such steps carry
    titles of their own, and follow the order that they belong to.
    """
    own = [point for point in report.curve if _is_prefix(report, point)]
    solved_once = [
        point for point in report.curve if point.fits and not point.solved_again and point.order != CONFIRMING
    ]
    if solved_once:
        best = min(solved_once, key=lambda point: point.parameters)
        before = report.curve[: report.curve.index(best) + 1]
        if leading := [point.order for point in before if _is_prefix(report, point)]:
            return leading[-1]
    titles = [point.order for point in own]
    return max(titles, key=titles.count, default="")


def order_points(report: BudgetReport) -> Sequence[BudgetPoint]:
    """The points of the leading order and the point with everything pruned, where all orders begin.

    The point with the fewest dense layers comes first.
    """
    name = order(report)
    found = [point for point in report.curve if _is_start(point) or (_is_prefix(report, point) and point.order == name)]
    return sorted(found, key=lambda point: point.layers)


def main_steps(report: BudgetReport) -> Sequence[BudgetPoint]:
    """The points of one order, the variant that the search chose, and each choice on other samples."""
    leading = list(order_points(report))
    fitting = [point for point in report.curve if point.fits and point.order != CONFIRMING]
    chosen = min(fitting, key=lambda point: point.parameters, default=None)
    between = [] if chosen is None or chosen in leading else [chosen]
    return [*leading, *between, *(point for point in report.curve if point.order == CONFIRMING)]


def steps_table(report: BudgetReport | None) -> Table:
    """The table of the main steps."""
    rows = [_make_row(point) for point in (main_steps(report) if report else ())]
    return Table("Search for the fewest dense layers", HEADER, rows)


def variants_table(report: BudgetReport | None) -> Table:
    """The table of every measured variant, in the order of the search."""
    rows = [_make_row(point) for point in (report.curve if report else ())]
    return Table(f"Variants in the order of the search, {len(rows):,}", HEADER, rows)


def _is_start(point: BudgetPoint) -> bool:
    """Whether everything is pruned at this point."""
    return not point.layers and point.order != CONFIRMING


def _is_prefix(report: BudgetReport, point: BudgetPoint) -> bool:
    """Whether only the first layers of an order are dense at this point, and nothing else was done."""
    steps = {f"{unit.name} sparse again" for unit in report.sensitivity.units} | {CONFIRMING}
    return point.layers > 0 and not point.solved_again and point.order not in steps


def _make_row(point: BudgetPoint) -> tuple[str, ...]:
    unit = units(point.metric)[1]
    error = f" ± {number(point.error, 2)}" if math.isfinite(point.error) and point.error else ""
    return (
        f"{point.layers:,}",
        f"{point.parameters:,}",
        f"{metric_name(point.metric)} {number(point.value)}{error}{unit}",
        f"{number(point.limit)}{unit}",
        "keeps it" if point.fits else "misses it",
        point.order + (" (solved again)" if point.solved_again else ""),
    )
