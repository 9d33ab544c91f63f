"""Rounding to float16 and bfloat16: zeros stay zeros, and the nearest value is taken."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prox24_export.passes.graph.arrays import Array, find_largest_value
from prox24_export.passes.precision.types import PRECISIONS, round_to
from tests.graphs import BF16, is_two_four


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_rounding_keeps_zeros_and_finiteness_and_is_to_nearest(array: Array) -> None:
    for word, dtype in (("float16", np.dtype(np.float16)), ("bfloat16", BF16)):
        low = round_to(array, word)
        assert low.dtype == dtype
        assert np.array_equal(np.isfinite(low), np.isfinite(array))
        assert not np.signbit(low[low == 0]).any()
        assert (low[array == 0] == 0).all()
        wide = low.astype(np.float64)
        inside = np.abs(array) <= find_largest_value(word)
        expected = array[inside].astype(dtype).astype(np.float64)
        np.testing.assert_array_equal(wide[inside], expected)


@given(st.integers(0, 2**31), st.sampled_from(["fp16", "bf16"]))
def test_what_is_two_four_stays_so(seed: int, name: str) -> None:
    matrix = np.random.default_rng(seed).standard_normal((6, 16)).astype(np.float32) * 10.0 ** (seed % 9 - 8)
    order = np.abs(matrix.reshape(6, 4, 4)).argsort(-1)
    np.put_along_axis(matrix.reshape(6, 4, 4), order[..., :2], 0, -1)
    assert is_two_four(PRECISIONS[name].of(matrix))
