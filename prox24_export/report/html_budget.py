"""The page's section on an accuracy budget: the plot of one order, and which layers were left dense."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from prox24_export.report import budget_tables, html_charts
from prox24_export.report.html_charts import PrunedCurve
from prox24_export.report.html_plot import Plot
from prox24_export.report.tables import Table, metric_name, units
from prox24_export.results.budget import BudgetPoint, BudgetReport

MOST_NAMES = 20


class BudgetSection(NamedTuple):
    """What the page says of the search.

    Attributes:
        verdict: The verdict in one sentence.
        margin: What a variant has to keep within the limit, in one sentence.
        order: The order in which layers were left dense; empty where no order was searched.
        names: Names of the first twenty layers that are left dense.
        rest: How many more are left dense.
        plot: The plot of one order; None where fewer than two variants can be drawn.
        table: The table of the main steps.
        variants: The table of every measured variant.
    """

    verdict: str
    margin: str
    order: str
    names: Sequence[str]
    rest: int
    plot: Plot | None
    table: Table
    variants: Table


def budget_section(report: BudgetReport | None) -> BudgetSection | None:
    """Makes the section; None where no budget was asked for."""
    if report is None:
        return None
    said = budget_tables.verdict(report)
    return BudgetSection(
        verdict=f"{said[0].upper()}{said[1:]}.",
        margin=budget_tables.margin(report),
        order=budget_tables.order(report),
        names=report.dense[:MOST_NAMES],
        rest=max(0, len(report.dense) - MOST_NAMES),
        plot=html_charts.pruned_curve(curve(report)),
        table=budget_tables.steps_table(report),
        variants=budget_tables.variants_table(report),
    )


def curve(report: BudgetReport) -> PrunedCurve | None:
    """The curve of one order in one metric; None where nothing was measured.

    The metric is that of the chosen variant, else that of most points. The metric whose limit is the hardest to keep
    may differ from point to point, and values of two metrics would make no curve.
    """
    eligible = sum(len(unit.layers) for unit in report.sensitivity.units)
    points, ending = budget_tables.order_points(report), report.ending
    metrics = [point.metric for point in points]
    metric = ending.metric if ending else max(metrics, key=metrics.count, default=None)
    if metric is None:
        return None

    def place(point: BudgetPoint) -> tuple[int, float]:
        return eligible - point.layers, point.value

    drawn = [point for point in points if point.metric == metric and math.isfinite(point.value)]
    limit = next((point.limit for point in (ending, *drawn) if point and math.isfinite(point.limit)), None)
    is_known = ending is not None and math.isfinite(ending.value)
    return PrunedCurve(
        metric=f"Change of {metric_name(metric)} for the worse",
        unit=units(metric)[1],
        points=[place(point) for point in drawn],
        limit=limit,
        chosen=place(ending) if ending is not None and is_known else None,
    )
