"""Integers to floats and back: nothing that is on a grid moves, and zero is the zero point."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.grid import StoredGrid
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear

SCALES = st.floats(2.0**-100, 2.0**100, width=32)
LOWEST = {"int8": -128, "uint8": 0}


def linear(grid: StoredGrid, layout: Layout) -> Linear:
    n, k = layout.shape
    return Linear("layer", "MatMul", "w", grid.dtype, layout, k, n, (), grid=grid)


@st.composite
def stored_weights(draw: st.DrawFn) -> tuple[Linear, Array]:
    """A layer and its integers: per tensor or along any axis, as int8 or uint8, in one of several layouts."""
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    bounds = np.iinfo(dtype)
    shape, layout = draw(
        st.sampled_from(
            [
                ((3, 8), Layout((3, 8))),
                ((8, 3), Layout((8, 3)).permute((1, 0))),
                ((3, 4, 2), Layout((3, 4, 2)).permute((0, 2, 1)).reshape((3, 8))),
            ]
        )
    )
    axis = draw(st.sampled_from([None, *range(len(shape))]))
    sizes = tuple(size if place == axis else 1 for place, size in enumerate(shape))
    count = int(np.prod(sizes))
    scales = draw(st.lists(SCALES, min_size=count, max_size=count))
    zeros = draw(st.lists(st.integers(bounds.min, bounds.max), min_size=count, max_size=count))
    grid = StoredGrid(dtype, tuple(float(np.float32(scale)) for scale in scales), tuple(zeros), sizes, LOWEST[dtype])
    seed = draw(st.integers(0, 2**32 - 1))
    integers = np.random.default_rng(seed).integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    return linear(grid, layout), integers


@given(stored_weights())
def test_what_is_on_the_grid_stays_what_it_is(case: tuple[Linear, Array]) -> None:
    layer, integers = case
    back = layer.to_stored(layer.to_matrix(integers))
    assert back.dtype == integers.dtype
    np.testing.assert_array_equal(back, integers)


@given(stored_weights())
def test_every_zero_is_the_zero_point_and_nothing_else_is_counted_as_zero(case: tuple[Linear, Array]) -> None:
    layer, integers = case
    assert layer.grid is not None
    mask = torch.arange(layer.k).remainder(4) < 2
    matrix = layer.to_matrix(integers)
    stored = layer.to_stored(torch.where(mask, matrix, -0.0))
    zero = np.broadcast_to(layer.grid.zero, integers.shape)
    gone = layer.layout.from_matrix(np.broadcast_to(~mask.numpy(), (layer.n, layer.k)))
    np.testing.assert_array_equal(stored[gone], zero[gone])
    np.testing.assert_array_equal(stored[~gone], integers[~gone])
    np.testing.assert_array_equal(layer.find_surviving(stored), (layer.to_matrix(stored) != 0).numpy())


@given(stored_weights(), st.floats(-0.49, 0.49))
def test_floats_become_the_nearest_integers(case: tuple[Linear, Array], apart: float) -> None:
    layer, integers = case
    assert layer.grid is not None
    floats = layer.grid.to_floats(integers).astype(np.float64) + apart * layer.grid.scale
    np.testing.assert_array_equal(layer.grid.to_integers(floats), integers)


@pytest.mark.parametrize(
    ("dtype", "zero", "lowest", "ends"),
    [("int8", 0, -127, (-127, 127)), ("int8", 0, -128, (-128, 127)), ("uint8", 128, 0, (0, 255))],
)
def test_what_is_outside_becomes_an_end_of_the_range(dtype: str, zero: int, lowest: int, ends: tuple[int, int]) -> None:
    grid = StoredGrid(dtype, (0.5,), (zero,), (1, 1), lowest)
    assert grid.to_integers(np.array([[-1e30, 1e30, -0.0, 0.25]])).tolist() == [[*ends, zero, zero]]


def test_floats_stay_below_the_limit_of_a_cast() -> None:
    grid = StoredGrid("int8", (1000.0,), (0,), (1,), -127)
    assert grid.to_integers(np.array([1e6, -1e6, 65_400.0]), 65_504.0).tolist() == [65, -65, 65]


def test_grids_compare_by_scales_and_zero_points() -> None:
    one = StoredGrid("int8", (0.5, 0.25), (0, 1), (2, 1), -127)
    assert one == StoredGrid("int8", (0.5, 0.25), (0, 1), (2, 1), -128)
    assert hash(one) == hash(StoredGrid("int8", (0.5, 0.25), (0, 1), (2, 1), -128))
    assert one not in {StoredGrid("int8", (0.5, 0.25), (0, 1), (1, 2)), StoredGrid("int8", (0.5, 0.25), (0, 0), (2, 1))}


def test_a_layer_rounds_some_rows_as_it_stores_them() -> None:
    layer = linear(StoredGrid("int8", (1.0, 10.0), (0, 0), (1, 2), -127), Layout((4, 2)).permute((1, 0)))
    rows = torch.tensor([[14.0, -26.0, 0.0, 1e9]], dtype=torch.float64)
    assert layer.round_rows(rows, slice(1, 2)).tolist() == [[10.0, -30.0, 0.0, 1270.0]]
