"""Scales: what every one of them keeps, and that a searched one is no worse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise.histogram import Histogram
from prox24_export.passes.quantise.scales import SCALE_METHODS, ScaleMethod, choose_scale, round_weight
from tests.graphs import normal
from tests.passes.quantise.quantised import fake_quantise

VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**60), 2.0**60, width=32))
MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 12)),
    elements=st.one_of(st.just(0.0), st.floats(-(2.0**60), 2.0**60, width=32)),
)


def seen(array: Array) -> Histogram:
    found = Histogram()
    found.add(array)
    return found


@given(VALUES, st.sampled_from(SCALE_METHODS))
def test_zero_stays_zero_and_no_integer_overflows(values: Array, method: ScaleMethod) -> None:
    scale = choose_scale(seen(values), method)
    assert np.isfinite(scale)
    assert np.float32(scale) > 0
    assert 127 * scale <= max(np.abs(values).max(), np.finfo(np.float32).tiny * 127) * (1 + 1e-6) or not values.any()
    np.testing.assert_array_equal(fake_quantise(np.zeros(3, np.float32), scale), 0)


@given(VALUES)
def test_a_scale_is_the_same_for_both_signs(values: Array) -> None:
    for method in SCALE_METHODS:
        assert choose_scale(seen(values), method) == choose_scale(seen(-values), method)


@pytest.mark.parametrize("tail", [1.0, 10.0, 100.0])
def test_least_squared_error_is_no_worse_than_the_largest_magnitude(tail: float) -> None:
    values = np.concatenate([normal(20_000), np.array([tail * 5], np.float32)])
    errors = {
        method: float(np.square(fake_quantise(values, choose_scale(seen(values), method)) - values).sum())
        for method in SCALE_METHODS
    }
    assert errors["mse"] <= 1.02 * errors["largest"]
    tried = [
        float(np.square(fake_quantise(values, end / 127) - values).sum()) for end in np.linspace(0.5, tail * 5, 400)
    ]
    assert errors["mse"] <= 1.05 * min(tried)


def test_a_percentile_leaves_its_share_above() -> None:
    values = np.linspace(0, 1, 100_001, dtype=np.float32)
    assert 127 * choose_scale(seen(values), "99.9 %") == pytest.approx(0.999, abs=1e-3)
    assert 127 * choose_scale(seen(values), "largest") == pytest.approx(1.0)


def test_zeros_count_in_a_percentile() -> None:
    values = np.zeros(100_000, np.float32)
    values[:50] = 1.0  # 0.05 %, all of them above the percentile
    values[50:150] = 0.1
    assert 127 * choose_scale(seen(values), "99.9 %") == pytest.approx(0.1, rel=0.01)


def test_a_value_of_nothing_but_zeros_has_a_scale() -> None:
    assert {choose_scale(seen(np.zeros(9, np.float32)), method) for method in SCALE_METHODS} == {1 / 127}


@given(MATRICES, st.booleans())
def test_weights_are_symmetric_and_keep_their_zeros(matrix: Array, search: bool) -> None:
    integers, scales = round_weight(matrix, search=search)
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert scales.shape == matrix.shape[:1]
    assert (scales > 0).all()
    assert int(integers.min()) >= -127
    np.testing.assert_array_equal(integers[matrix == 0], 0)


@given(MATRICES)
def test_a_searched_scale_is_no_worse_in_any_channel(matrix: Array) -> None:
    errors = []
    for search in (True, False):
        integers, scales = round_weight(matrix, search=search)
        errors.append(np.square(matrix.astype(np.float64) - integers * scales[:, None].astype(np.float64)).sum(1))
    assert (errors[0] <= errors[1] * (1 + 1e-4) + 1e-30).all()


def test_the_largest_weight_of_a_channel_is_127_without_a_search() -> None:
    integers, scales = round_weight(normal(5, 40), search=False)
    assert np.abs(integers.astype(int)).max(1).tolist() == [127] * 5
    np.testing.assert_allclose(scales * 127, np.abs(normal(5, 40)).max(1), rtol=1e-6)
