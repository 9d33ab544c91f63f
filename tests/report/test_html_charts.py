"""Pictures: every value at its place, inside the plot, with round ticks; nothing is drawn that was not measured."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.report import html_charts
from prox24_export.report.html_charts import PrunedCurve
from prox24_export.report.html_plot import HEIGHT, ROOM, Plot, make_axis
from prox24_export.results.engine import ShapeShare
from tests.report.example import layer
from tests.report.html_example import ESTIMATE, build, distribution, point

FINITE = st.floats(-1e12, 1e12)
CURVE = PrunedCurve("top-1", " %", ((0, 97.6), (20, 97.55), (45, 97.5), (74, 97.2), (80, 96.1)), 97.0, (74, 97.2))


def points(plot: Plot, place: int) -> list[tuple[float, float]]:
    """A line's points: thousandths across, pixels down."""
    pairs = (entry.split(",") for entry in plot.lines[place].points.split())
    return [(float(x), float(y)) for x, y in pairs]


@given(FINITE, FINITE)
def test_an_axis_holds_its_values_in_few_round_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale = make_axis(low, high)
    slack = 1e-6 * scale.step
    assert scale.low <= low + slack
    assert scale.high >= high - slack
    assert 2 <= len(scale.values()) <= 8
    assert f"{scale.step:.3e}"[0] in "125"


@given(FINITE, FINITE)
def test_ticks_are_told_apart(one: float, other: float) -> None:
    scale = make_axis(min(one, other), max(one, other))
    labels = [tick.label for tick in scale.ticks(scale.down)]
    assert len(set(labels)) == len(labels)
    assert (scale.down(scale.low), scale.down(scale.high)) == (ROOM + HEIGHT, ROOM)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 0.1, ["0", "0.02", "0.04", "0.06", "0.08", "0.1"]),
        (0.98, 1.05, ["0.98", "1", "1.02", "1.04", "1.06"]),
        (1.001, 1.004, ["1.001", "1.002", "1.003", "1.004"]),
        (-0.5, 0.5, ["−0.6", "−0.4", "−0.2", "0", "0.2", "0.4", "0.6"]),
        (1, 1, ["1", "1.01"]),
        (0, 1500, ["0", "500", "1,000", "1,500"]),
    ],
)
def test_ticks_read_well(low: float, high: float, labels: list[str]) -> None:
    scale = make_axis(low, high)
    assert [tick.label for tick in scale.ticks(scale.down)] == labels


def test_bars_keep_their_proportions_inside_the_plot() -> None:
    drawn = html_charts.errors([replace(layer(0), relative_error=error) for error in (0.0, 0.05, 0.1)])
    assert drawn is not None
    assert [bar.height for bar in drawn.bars] == pytest.approx([0, HEIGHT / 2, HEIGHT])
    assert [tick.label for tick in drawn.y_ticks] == ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]
    assert drawn.y_ticks[-1].at == pytest.approx(ROOM)


def test_dense_layers_keep_their_place_in_network_order() -> None:
    drawn = html_charts.errors(build().layers)
    assert drawn is not None
    places = sorted([(bar.x, "sparse") for bar in drawn.bars] + [(gap, "dense") for gap in drawn.gaps])
    assert [state for _, state in places] == [entry.state for entry in build().layers]


@pytest.mark.parametrize("largest", [1e-300, 1e-8, 0.005, 0.3, 0.99, 1.0, 7e5])
def test_any_error_fits_the_axis(largest: float) -> None:
    drawn = html_charts.errors([replace(layer(0), relative_error=largest)] * 50)
    assert drawn is not None
    assert drawn.bars[0].height <= HEIGHT + 1e-6
    assert drawn.bars[-1].x + drawn.bars[-1].width <= 100
    assert 2 <= len(drawn.y_ticks) <= 6


def test_layers_without_a_finite_error_have_no_bar() -> None:
    layers = [replace(layer(0), relative_error=error) for error in (None, math.nan, math.inf)]
    assert html_charts.errors(layers) is None
    drawn = html_charts.errors([*layers, layer(0)])
    assert drawn is not None
    assert len(drawn.bars) == 1


def test_the_refinement_curve_falls_as_its_objective() -> None:
    drawn = html_charts.refinement(build().refinement)
    assert drawn is not None
    train, held = points(drawn, 0), points(drawn, 1)
    assert (len(held), len(train)) == (7, 6)  # nothing was trained before the first epoch
    assert [y for _, y in held] == sorted(y for _, y in held)  # down the page: it fell
    assert (held[0][0], held[-1][0]) == (0, 1000)
    assert "6 epochs; held-back samples from 0.52 to 0.331" in drawn.description


def test_shapes_are_as_wide_as_their_share_and_as_sparse_as_their_layers() -> None:
    bars = html_charts.shapes(ESTIMATE)
    assert [bar.share for bar in bars] == ["41 %", "34 %", "25 %"]
    assert [bar.width for bar in bars] == pytest.approx([100, 100 * 34 / 41, 100 * 25 / 41])
    assert bars[0].sparse_width == pytest.approx(100 * 12 / 16)
    assert html_charts.shapes(None) == html_charts.shapes(replace(ESTIMATE, shapes=())) == []


def test_small_shapes_are_one_row_that_loses_nothing() -> None:
    many = tuple(ShapeShare(4 * k, 8, 1, 2, k % 3, 16.0 * k, k / 465) for k in range(1, 31))
    bars = html_charts.shapes(replace(ESTIMATE, shapes=many))
    assert len(bars) == 21
    assert (bars[-1].shape, bars[-1].layers) == ("10 smaller shapes", "10 of 20")
    total = 100 / (sum(range(1, 11)) / 465)  # per cent of the widest, which is the ten together
    assert sum(bar.width for bar in bars) == pytest.approx(total)
    assert sum(bar.sparse_width for bar in bars) == pytest.approx(
        total * sum(k * (k % 3) / 2 for k in range(1, 31)) / 465
    )


def test_an_ecdf_goes_through_its_quantiles() -> None:
    (drawn,) = html_charts.distributions([replace(point(8, 1.2), flag_off=None)])
    assert [key.label for key in drawn.legend] == ["dense", "sparse"]
    found = points(drawn, 1)
    assert len(found) == 100
    assert found[0][1] == pytest.approx(ROOM + HEIGHT)
    assert found[50][1] == pytest.approx(ROOM + HEIGHT / 2)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    low, high = (float(tick.label) for tick in (drawn.x_ticks[0], drawn.x_ticks[-1]))
    median = point(8, 1.2).sparse.quantiles[50]
    assert found[50][0] == pytest.approx(1000 * (median - low) / (high - low), abs=0.1)


def test_an_outlier_does_not_squeeze_the_rest() -> None:
    slow = distribution(1.0)
    slow = replace(slow, quantiles=(*slow.quantiles[:100], 1e6))
    (drawn,) = html_charts.distributions([replace(point(1, 1.0), sparse=slow)])
    assert float(drawn.x_ticks[-1].label) < 2
    assert "The slowest 1 % is not drawn." in drawn.description


def test_without_quantiles_there_is_no_distribution() -> None:
    bare = replace(distribution(1.0), quantiles=())
    assert html_charts.distributions([replace(point(1, 1.1), dense=bare, sparse=bare, flag_off=None)]) == []


def test_curves_are_in_the_order_of_batches_and_know_what_cannot_be_trusted() -> None:
    measured = [point(64, 1.3, valid=False), point(1, 1.0), point(8, 1.1)]
    times, ratios = html_charts.medians(measured), html_charts.speedups(measured)
    assert times is not None
    assert ratios is not None
    assert [tick.label for tick in times.x_ticks] == ["1", "8", "64"]
    assert len(times.marks) == 9
    assert [mark.kind for mark in ratios.marks if mark.kind.startswith("sparse")] == [
        "sparse",
        "sparse",
        "sparse invalid",
    ]
    assert "Hollow points cannot be trusted." in ratios.description
    assert all(mark.high < mark.y < mark.low for mark in ratios.marks)  # down the page
    one = next(tick for tick in ratios.y_ticks if tick.label == "1 ×")
    assert ratios.rule == pytest.approx(one.at)


def test_one_point_is_no_curve() -> None:
    assert html_charts.medians([point(1, 1.1)]) is None
    assert html_charts.speedups([point(1, 1.1)]) is None
    assert html_charts.pruned_curve(None) is None
    assert html_charts.pruned_curve(PrunedCurve("top-1", " %", ((3, 97.0),))) is None


def test_points_with_the_same_batch_are_called_by_their_shapes() -> None:
    same = [point(8, 1.1), replace(point(8, 1.2), shapes={"ids": (8, 128), "mask": (8, 128)})]
    assert html_charts.label(same[1], same) == "ids 8×128, mask 8×128"
    assert html_charts.label(same[1], same[1:]) == "batch 8"


def test_the_curve_over_pruned_layers_marks_the_choice_and_the_limit() -> None:
    drawn = html_charts.pruned_curve(CURVE)
    assert drawn is not None
    filled = [mark for mark in drawn.marks if "invalid" not in mark.kind]
    assert [mark.title for mark in filled] == ["74 layers pruned: 97.2 %"]
    assert drawn.rule is not None
    assert filled[0].y < drawn.rule < drawn.marks[-1].y  # above the limit; the last point is below it
    assert [x for x, _ in points(drawn, 0)] == pytest.approx([0, 250, 562.5, 925, 1000])
