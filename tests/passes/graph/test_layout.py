"""Stored weight to matrix and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.passes.graph.layout import Layout


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    layout = Layout(shape)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            layout = layout.permute(draw(st.permutations(range(len(layout.shape)))))
        else:
            size = math.prod(shape)
            rows = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            layout = layout.reshape((rows, -1) if draw(st.booleans()) else (1, size // rows, rows))
    return layout


@given(layouts())
def test_matrix_and_stored_array_are_inverse_whatever_the_steps(layout: Layout) -> None:
    stored = np.arange(math.prod(layout.stored)).reshape(layout.stored)
    matrix = layout.to_matrix(stored)
    assert matrix.shape == layout.shape
    back = layout.from_matrix(matrix)
    assert np.array_equal(back, stored)
    assert back.flags.c_contiguous


@given(layouts(), layouts())
def test_two_layouts_are_the_same_exactly_where_they_move_every_entry_alike(one: Layout, other: Layout) -> None:
    other = Layout(one.stored, other.steps) if other.stored == one.stored else one.reshape(one.shape)
    index = np.arange(math.prod(one.stored)).reshape(one.stored)
    assert one.same_matrix(other) == np.array_equal(one.to_matrix(index), other.to_matrix(index))


def test_a_round_about_way_is_the_same_matrix_and_a_transposed_square_is_not() -> None:
    square = Layout((4, 4))
    assert square.permute((1, 0)).permute((1, 0)).same_matrix(square)
    assert square.reshape((2, 2, 4)).reshape((4, 4)).same_matrix(square)
    assert not square.permute((1, 0)).same_matrix(square)
    assert not Layout((4, 8)).same_matrix(Layout((4, 8)).reshape((8, 4)))


def test_nothing_is_added_by_a_step_that_does_nothing() -> None:
    layout = Layout((2, 3, 4))
    assert layout.permute((0, 1, 2)).reshape((2, 3, 4)).reshape((2, -1, 4)).steps == ()


def test_a_reshape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        Layout((2, 3)).reshape((4, -1))
