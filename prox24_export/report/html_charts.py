"""The plots of the page, made from figures of the report; what was not measured has no plot."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from prox24_export.report import content, engine_tables
from prox24_export.report.html_plot import HEIGHT, AxisTick, Bar, Key, Mark, Plot, make_axis, make_line
from prox24_export.report.tables import number
from prox24_export.results.engine import Distribution, Estimate, LatencyPoint, ShapeShare
from prox24_export.results.report import LayerReport, RefinementReport

FEWEST_SLOTS = 12  # the bars of two layers alone would be too wide
LAST_QUANTILE = 99  # per cent; beyond it one outlier would squeeze everything else into a corner
MOST_SHAPES, MOST_ERRORS = 20, 12
ASIDE = 1.5  # distance in per cent between the whiskers of two ratios of one point
MODELS = {"dense": "dense", "sparse": "sparse", "off": "sparse weights, tactics off"}


class PrunedCurve(NamedTuple):
    """A metric over the number of pruned layers, e.g. of a search for an accuracy budget.

    Attributes:
        metric: Name of the metric.
        unit: Its unit with the space before it, such as ` %`.
        points: The points (layers pruned, value).
        limit: The worst value allowed; None where there is no limit.
        chosen: The point of the model that was written, which may lie beside the line; None where none was chosen.
    """

    metric: str
    unit: str
    points: Sequence[tuple[int, float]]
    limit: float | None = None
    chosen: tuple[int, float] | None = None


class ShapeBar(NamedTuple):
    """Layers of one shape; widths of all and of sparse operations are in per cent of the widest bar."""

    shape: str
    tokens: str
    layers: str
    share: str
    width: float
    sparse_width: float


def errors(layers: Sequence[LayerReport]) -> Plot | None:
    """Relative errors in network order, dense layers as gaps; None where no layer has a finite error."""
    known = {
        place: layer.relative_error
        for place, layer in enumerate(layers)
        if layer.state == "sparse" and layer.relative_error is not None and math.isfinite(layer.relative_error)
    }
    if not known:
        return None
    worst = max(known, key=known.__getitem__)
    scale, slot = make_axis(0, known[worst]), 100 / max(len(layers), FEWEST_SLOTS)
    bars = [
        Bar(
            slot * (place + 0.1),
            slot * 0.8,
            HEIGHT * scale.share(error),
            f"{layers[place].name}: {content.figures(layers[place])[2]}",
        )
        for place, error in known.items()
    ]
    found = f"the largest error is {content.figures(layers[worst])[2]}, at {layers[worst].name}"
    return Plot(
        name="errors",
        title="Relative error of each sparse layer",
        description=f"{len(known):,} sparse layers in network order; {found}.",
        across="first layer → last layer",
        down="relative error",
        x_ticks=(),
        y_ticks=scale.ticks(scale.down, " %", 100),
        bars=bars,
        gaps=[slot * (place + 0.5) for place, layer in enumerate(layers) if layer.state == "dense"],
        legend=[Key("sparse bar", "sparse layer"), Key("gap", "layer left dense")],
    )


class ErrorBar(NamedTuple):
    """One of the layers with the largest errors; its width is in per cent of the widest bar."""

    name: str
    error: str
    width: float


def worst_errors(layers: Sequence[LayerReport]) -> list[ErrorBar]:
    """The layers with the largest relative errors, the largest first, each with its name."""
    known = [
        (layer.relative_error, layer)
        for layer in layers
        if layer.state == "sparse" and layer.relative_error is not None and math.isfinite(layer.relative_error)
    ]
    worst = sorted(known, key=lambda pair: -pair[0])[:MOST_ERRORS]
    widest = max((error for error, _ in worst), default=0.0)
    return [
        ErrorBar(layer.name, content.figures(layer)[2], 100 * error / widest if widest else 0.0)
        for error, layer in worst
    ]


def refinement(found: RefinementReport | None) -> Plot | None:
    """Objective of held-back samples and of training batches; None where nothing was tried or held back."""
    points = [] if found is None else [point for point in found.curve if point.held is not None]
    if found is None or len(points) < 2:  # noqa: PLR2004 (a line has two ends)
        return None
    held = [point.held for point in points if point.held is not None]
    scale = make_axis(0, max(*held, *(point.train for point in points if point.train is not None)))
    across = [100 * place / (len(points) - 1) for place in range(len(points))]
    train = [(x, scale.down(point.train)) for x, point in zip(across, points, strict=True) if point.train is not None]
    epochs = "epochs" if found.mode == "model" else "epochs of all segments, one after the other"
    both = f"from {number(held[0])} to {number(held[-1])}"
    return Plot(
        name="refinement",
        title="Objective by epoch",
        description=f"{len(points) - 1} {epochs}; held-back samples {both}.",
        across="first epoch → last epoch",
        down="objective",
        x_ticks=(),
        y_ticks=scale.ticks(scale.down),
        lines=[make_line("dense", train), make_line("sparse", list(zip(across, map(scale.down, held), strict=True)))],
        legend=[Key("sparse", "held-back samples"), Key("dense", "training batches")],
    )


def shapes(estimate: Estimate | None) -> list[ShapeBar]:
    """Bars that show where the operations are, the largest share first; shapes beyond the twentieth share one bar."""
    if estimate is None or not estimate.shapes:
        return []
    ordered = sorted(estimate.shapes, key=lambda shape: -shape.share)
    first, rest = ordered[:MOST_SHAPES], ordered[MOST_SHAPES:]
    groups = [(f"{shape.k:,} × {shape.n:,}", f"{shape.tokens:,}", [shape]) for shape in first]
    groups += [(f"{len(rest):,} smaller shapes", "", rest)] if rest else []
    widest = max(sum(shape.share for shape in group) for _, _, group in groups) or 1
    return [_shape_bar(name, tokens, group, widest) for name, tokens, group in groups]


def _shape_bar(name: str, tokens: str, group: Sequence[ShapeShare], widest: float) -> ShapeBar:
    share = sum(shape.share for shape in group)
    sparse = sum(shape.share * shape.sparse / shape.layers for shape in group)
    return ShapeBar(
        shape=name,
        tokens=tokens,
        layers=f"{sum(shape.sparse for shape in group):,} of {sum(shape.layers for shape in group):,}",
        share=f"{number(100 * share)} %",
        width=100 * share / widest,
        sparse_width=100 * sparse / widest,
    )


def label(point: LatencyPoint, points: Sequence[LatencyPoint]) -> str:
    """The label of a point: its batch, or its shapes where two points have the same batch."""
    if len({other.batch for other in points}) == len(points):
        return f"batch {point.batch:,}"
    return engine_tables.format_shapes(point)


def distributions(points: Sequence[LatencyPoint]) -> list[Plot]:
    """One cumulative distribution for each point whose quantiles are known."""
    return [plot for place, point in enumerate(points) if (plot := _ecdf(point, label(point, points), place))]


def medians(points: Sequence[LatencyPoint]) -> Plot | None:
    """Median times over the batch; None for fewer than two points."""
    points = sorted(points, key=lambda point: point.batch)
    if len(points) < 2:  # noqa: PLR2004 (a curve has two ends)
        return None
    scale = make_axis(0, max(run.median for point in points for _, _, run in _runs(point)))
    marks = [
        _spot(kind, x, scale.down(run.median), f"{label(point, points)}, {name}: {_ms(run.median)}")
        for x, point in _slots(points)
        for kind, name, run in _runs(point)
    ]
    return _over_batch(
        points, marks, name="medians", title="Median time", down="milliseconds", y_ticks=scale.ticks(scale.down)
    )


def speedups(points: Sequence[LatencyPoint], title: str = "Speed-up") -> Plot | None:
    """Dense over sparse, and sparse tactics off over on, with their intervals; None for fewer than two points."""
    points = sorted(points, key=lambda point: point.batch)
    if len(points) < 2:  # noqa: PLR2004 (a curve has two ends)
        return None
    ratios = [
        (kind, x + aside, point, ratio)
        for x, point in _slots(points)
        for kind, ratio, aside in (("sparse", point.speedup, 0), ("off", point.flag_speedup, ASIDE))
        if ratio is not None
    ]
    ends = [end for _, _, _, ratio in ratios for end in (ratio.value, ratio.low, ratio.high)]
    scale = make_axis(min(1.0, *ends), max(1.0, *ends))
    marks = [
        Mark(
            kind=kind if point.valid else f"{kind} invalid",
            x=x,
            y=scale.down(ratio.value),
            low=scale.down(ratio.low),
            high=scale.down(ratio.high),
            title=f"{label(point, points)}: {engine_tables.format_ratio(ratio)}",
        )
        for kind, x, point, ratio in ratios
    ]
    plot = _over_batch(
        points, marks, name="speedups", title=title, down="ratio of medians", y_ticks=scale.ticks(scale.down, " ×")
    )
    names = {"sparse": "dense over sparse", "off": "same sparse weights: tactics off over on"}
    return plot._replace(rule=scale.down(1.0), legend=[Key(key.kind, names[key.kind]) for key in plot.legend])


def pruned_curve(curve: PrunedCurve | None) -> Plot | None:
    """The metric over the number of pruned layers; None for fewer than two points."""
    points = sorted({*curve.points, *([curve.chosen] if curve.chosen else [])}) if curve else []
    if curve is None or len(points) < 2:  # noqa: PLR2004 (a curve has two ends)
        return None
    values = [value for _, value in points] + ([] if curve.limit is None else [curve.limit])
    scale, counts = make_axis(min(values), max(values)), make_axis(points[0][0], points[-1][0])
    told = {point: f"{number(point[1], 4)}{curve.unit}" for point in points}
    marks = [
        _spot(
            "sparse" if point == curve.chosen else "sparse invalid",
            counts.across(point[0]),
            scale.down(point[1]),
            f"{point[0]:,} layers pruned: {said}",
        )
        for point, said in told.items()
    ]
    chosen = "" if curve.chosen is None else f"; written: {curve.chosen[0]:,} layers, the filled point"
    limit = "" if curve.limit is None else f"; the limit, a dashed line, is {number(curve.limit, 4)}{curve.unit}"
    ends = [f"{told[point]} with {point[0]:,}" for point in (points[0], points[-1])]
    ticks = zip(counts.values(), counts.ticks(counts.across), strict=True)
    return Plot(
        name="pruned",
        title=f"{curve.metric} against layers pruned",
        description=f"{ends[0]}, {ends[1]} layers pruned{chosen}{limit}.",
        across="layers pruned",
        down=curve.metric,
        x_ticks=[tick for count, tick in ticks if math.isclose(count, round(count), abs_tol=1e-6)],  # no half a layer
        y_ticks=scale.ticks(scale.down, curve.unit),
        lines=[
            make_line("sparse", [(counts.across(count), scale.down(value)) for count, value in sorted(curve.points)])
        ],
        marks=marks,
        rule=None if curve.limit is None else scale.down(curve.limit),
    )


def _ecdf(point: LatencyPoint, name: str, place: int) -> Plot | None:
    runs = [(kind, words, run) for kind, words, run in _runs(point) if len(run.quantiles) > LAST_QUANTILE]
    if not runs:
        return None
    drawn = [run.quantiles[: LAST_QUANTILE + 1] for _, _, run in runs]
    scale, shares = make_axis(min(map(min, drawn)), max(map(max, drawn))), make_axis(0, 1)
    lines = [
        make_line(
            kind,
            [(scale.across(value), shares.down(q / 100)) for q, value in enumerate(run.quantiles[: LAST_QUANTILE + 1])],
        )
        for kind, _, run in runs
    ]
    medians = ", ".join(f"{words} {_ms(run.median)}" for _, words, run in runs)
    return Plot(
        name=f"ecdf-{place}",
        title=f"Times at {name}",
        description=f"Median: {medians}. The slowest 1 % is not drawn.",
        across="milliseconds",
        down="share of runs",
        x_ticks=scale.ticks(scale.across),
        y_ticks=shares.ticks(shares.down, " %", 100),
        lines=lines,
        legend=[Key(kind, words) for kind, words, _ in runs],
    )


def _over_batch(
    points: Sequence[LatencyPoint],
    marks: Sequence[Mark],
    *,
    name: str,
    title: str,
    down: str,
    y_ticks: Sequence[AxisTick],
) -> Plot:
    kinds = list(dict.fromkeys(mark.kind.partition(" ")[0] for mark in marks))
    series = {kind: [mark for mark in marks if mark.kind.partition(" ")[0] == kind] for kind in kinds}
    ends = [label(point, points) for point in (points[0], points[-1])]
    untrusted = " Hollow points cannot be trusted." if any("invalid" in mark.kind for mark in marks) else ""
    return Plot(
        name=name,
        title=title,
        description=f"From {ends[0]} to {ends[1]}; the table has every figure.{untrusted}",
        across="batch",
        down=down,
        x_ticks=[AxisTick(x, label(point, points).removeprefix("batch ")) for x, point in _slots(points)],
        y_ticks=y_ticks,
        lines=[make_line(kind, [(mark.x, mark.y) for mark in series[kind]]) for kind in kinds],
        marks=marks,
        legend=[Key(kind, MODELS[kind]) for kind in kinds],
    )


def _slots(points: Sequence[LatencyPoint]) -> list[tuple[float, LatencyPoint]]:
    """Positions of the points in per cent: side by side at equal distances, whatever their batch."""
    return [(100 * (place + 0.5) / len(points), point) for place, point in enumerate(points)]


def _runs(point: LatencyPoint) -> list[tuple[str, str, Distribution]]:
    found = zip(MODELS.items(), (point.dense, point.sparse, point.flag_off), strict=True)
    return [(kind, name, run) for (kind, name), run in found if run is not None]


def _spot(kind: str, x: float, y: float, title: str) -> Mark:
    """A point without an interval."""
    return Mark(kind, x, y, y, y, title)


def _ms(value: float) -> str:
    return f"{number(value)} ms"
