"""Histograms that grow with what they are given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise.histogram import BINS, Histogram

FLOATS = st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False)
BATCHES = st.lists(arrays.arrays(np.float32, st.integers(0, 50), elements=FLOATS), min_size=1, max_size=5)


@given(BATCHES)
def test_every_entry_is_counted_where_it_lies_however_the_range_grows(batches: list[Array]) -> None:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    whole = np.abs(np.concatenate(batches).astype(np.float64))
    assert seen.size == whole.size
    assert seen.zeros == np.count_nonzero(whole == 0)
    assert seen.largest == whole.max(initial=0.0)
    assert seen.end >= seen.largest
    edges = np.arange(1, BINS + 1) * seen.end / BINS
    counted, ordered = seen.zeros + np.cumsum(seen.counts), np.sort(whole)
    assert (np.searchsorted(ordered, edges, side="left") <= counted).all()  # an entry on an edge is in either bin
    assert (counted <= np.searchsorted(ordered, edges, side="right")).all()
    assert counted[-1] == whole.size


def test_the_median_does_not_depend_on_the_order_of_batches() -> None:
    small, large = np.linspace(0.01, 1, 1000, dtype=np.float32), np.linspace(1, 100, 1000, dtype=np.float32)
    for first, second in ((small, large), (large, small)):
        seen = Histogram()
        seen.add(first)
        seen.add(second)
        middle = (np.searchsorted(np.cumsum(seen.counts), 1000) + 1) * seen.end / BINS
        assert middle == pytest.approx(1.0, abs=2 * seen.end / BINS)


def test_infinity_and_nan_are_told_and_in_no_bin() -> None:
    seen = Histogram()
    seen.add(np.array([1.0, np.inf, np.nan, -2.0], np.float32))
    assert not seen.finite
    assert (seen.size, seen.largest) == (2, 2.0)
