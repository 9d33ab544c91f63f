"""`report.html`: one self-contained page, read without a network; the chart is drawn here, the rest in the template."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from prox24_export.report import markdown
from prox24_export.report.model import LayerReport, RefinementReport, Report

HEIGHT = 180  # pixels of the plot
NOISE = 1e-9  # relative errors below are drawn as zero
FEWEST_SLOTS = 12  # so that two layers are not two walls


class Bar(NamedTuple):
    """One layer: position and width in per cent, height in pixels."""

    x: float
    width: float
    height: float
    title: str


class Curve(NamedTuple):
    """Objective over epochs: polylines as SVG points in per cent and pixels, ticks as in `Chart`."""

    held: str
    train: str
    ticks: Sequence[tuple[float, str]]
    description: str


class Chart(NamedTuple):
    """Relative errors in network order; ticks as (pixels above the base, label)."""

    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    description: str


def render(report: Report) -> str:
    """The report as a page that loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prox24_export.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        tables=markdown.tables(report),
        verdict=markdown.verdict(report),
        warnings=markdown.warnings(report),
        reasons=markdown.reasons(report),
        cost=markdown.cost(report),
        chart=chart(report.sparse_layers),
        curve=curve(report.refinement),
        height=HEIGHT,
        share=sum(layer.share for layer in report.sparse_layers),
        figures=markdown.figures,
        number=markdown.number,
        details=details,
        written=written,
    )


def chart(layers: Sequence[LayerReport]) -> Chart | None:
    """Bars from zero; None where no layer has a finite error."""
    known = [(layer, layer.relative_error) for layer in layers if layer.relative_error is not None]
    known = [(layer, error) for layer, error in known if math.isfinite(error)]
    if not known:
        return None
    worst, largest = max(known, key=lambda pair: pair[1])
    step = _step(largest)
    top = step * max(1, math.ceil(largest / step - 1e-9))
    slot = 100 / max(len(known), FEWEST_SLOTS)
    bars = [
        Bar(slot * (index + 0.1), slot * 0.8, HEIGHT * error / top, f"{layer.name}: {markdown.figures(layer)[2]}")
        for index, (layer, error) in enumerate(known)
    ]
    ticks = [(HEIGHT * i * step / top, f"{markdown.number(100 * i * step)} %") for i in range(round(top / step) + 1)]
    described = f"{len(known):,} sparse layers in network order; the largest error is {markdown.figures(worst)[2]}"
    return Chart(bars, ticks, f"{described}, at {worst.name}.")


def curve(refinement: RefinementReport | None) -> Curve | None:
    """Curves of the held-back samples and of the training batches; None where nothing was tried or held back."""
    points = [] if refinement is None else [point for point in refinement.curve if point.held is not None]
    if refinement is None or len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return None
    values = [value for point in points for value in (point.held, point.train) if value is not None]
    step = _step(max(values))
    top = step * max(1, math.ceil(max(values) / step - 1e-9))

    def line(values: Sequence[float | None]) -> str:
        known = [(place, value) for place, value in enumerate(values) if value is not None]
        return " ".join(
            f"{1000 * place / (len(values) - 1):.1f},{HEIGHT + 10 - HEIGHT * value / top:.1f}" for place, value in known
        )

    ticks = [(HEIGHT * i * step / top, markdown.number(i * step)) for i in range(round(top / step) + 1)]
    first, last = points[0].held or 0.0, points[-1].held or 0.0
    epochs = "epochs" if refinement.mode == "model" else "epochs of all segments, one after the other"
    described = (
        f"{len(points) - 1} {epochs}; held-back samples from {markdown.number(first)} to {markdown.number(last)}."
    )
    return Curve(line([point.held for point in points]), line([point.train for point in points]), ticks, described)


def details(layer: LayerReport) -> str:
    """How a sparse layer was solved, in one line."""
    known = {"blend": layer.blend, "damping": layer.damping, "iterations": layer.iterations, "seconds": layer.seconds}
    figures = ", ".join(f"{name} {markdown.number(value)}" for name, value in known.items() if value is not None)
    return ": ".join(part for part in (figures, layer.status) if part)


def written(value: Any) -> str:
    """A setting or fact of any type, as people write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return markdown.number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {written(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(written, value)) or "none"
    return str(value)


def _step(largest: float) -> float:
    """1, 2 or 5 times a power of ten, at most five of which reach `largest`."""
    if largest < NOISE:
        return 0.01
    power = 10.0 ** math.floor(math.log10(largest / 5))
    return next((factor * power for factor in (1, 2, 5) if factor * power * 5 >= largest), 10 * power)
