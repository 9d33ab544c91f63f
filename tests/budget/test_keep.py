"""What counts towards an accuracy budget, and which samples judge it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.budget.judges import divide_samples, list_changes
from prox24_export.data.sample_list import Sample
from prox24_export.errors import InputError
from prox24_export.results.change import Change
from prox24_export.results.report import AccuracyReport
from tests.graphs import normal


def test_a_metric_changes_in_its_bad_direction_and_in_either_where_none_is_told() -> None:
    report = AccuracyReport(
        9,
        {"top1": 90.0, "perplexity": 4.0, "psnr": 30.0, "own": 1.0},
        {"top1": 10.0, "perplexity": 3.0, "psnr": 28.0, "own": 0.5},
        (),
        (Change("psnr", -2.0, -3.96, 0.0, 9),),
        {"perplexity": "lower", "psnr": "higher"},
    )
    found = {figure.metric: (figure.value, figure.error) for figure in list_changes(report, 1.0)}
    assert all(figure.own == figure.error for figure in list_changes(report, 1.0))
    assert found == {
        "perplexity": (-1.0, 0.0),
        "psnr": (2.0, pytest.approx(1.01, abs=0.01)),
        "own": (0.5, 0.0),
    }
    (doubled,) = (figure for figure in list_changes(report, 1.0, 2.0) if figure.metric == "psnr")
    assert [doubled.own, doubled.error] == pytest.approx([found["psnr"][1], 2 * found["psnr"][1]])
    for value in (math.nan, math.inf):
        (broken,) = list_changes(AccuracyReport(9, {"own": 1.0}, {"own": value}, (), better={"own": "lower"}), 1.0)
        assert not broken.fits(1.0)
    with pytest.raises(InputError, match="--metric module:function"):
        list_changes(AccuracyReport(9, {"top1": 1.0}, {"top1": 1.0}, ()), 1.0)


@given(st.integers(3, 60), st.integers(0, 5), st.booleans())
def test_no_sample_is_in_two_parts(count: int, seed: int, in_order: bool) -> None:
    samples = [Sample({"x": np.array([index])}) for index in range(count)]
    parts = divide_samples(samples, seed=seed, in_order=in_order)
    places = [[int(sample.feeds["x"][0]) for sample in part] for part in parts]
    assert sorted(itertools.chain(*places)) == list(range(count))
    assert all(part == sorted(part) and part for part in places)
    assert len(places[0]) == len(places[1]) == max(1, count // 5)
    if in_order:
        assert places[0][-1] < places[1][0]
        assert places[1][-1] < places[2][0]


def test_two_evaluation_samples_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="at least 3 evaluation samples"):
        divide_samples([Sample({"x": normal(1)})] * 2, seed=0, in_order=False)
