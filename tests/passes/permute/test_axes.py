"""Labels along axes, against arrays that hold the label of every entry."""

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.passes.permute import axes
from prox24_export.passes.permute.labels import Group, Labels, Value

SIZES = st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=1, max_size=4)
Whole = np.ndarray[Any, np.dtype[np.int64]]


@st.composite
def values(draw: st.DrawFn) -> Value:
    """A value with one labelled group of axes."""
    shape = tuple(draw(SIZES))
    chosen = tuple(axis for axis, size in enumerate(shape) if size > 1 and draw(st.booleans()))
    sizes = [shape[axis] for axis in chosen]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return Value(shape, (Group(chosen, ids),) if chosen else ())


def spread(value: Value) -> Whole | None:
    """The label of every entry; None where the value has no group."""
    if not value.groups:
        return None
    (group,) = value.groups
    sizes = [size if axis in group.axes else 1 for axis, size in enumerate(value.shape)]
    return np.broadcast_to(group.ids.reshape(sizes), value.shape)


def expect_same(value: Value, wanted: Whole | None) -> None:
    found = spread(value)
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert np.array_equal(found, wanted)


@given(values(), st.data())
def test_a_reshape_moves_labels_as_it_moves_entries(value: Value, data: st.DataObject) -> None:
    factors = [factor for size in value.shape for factor in ((2, 2) if size == 4 else (2, 3) if size == 6 else (size,))]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(factors) - 1)))))
    parts = np.split(np.array(factors), cuts) if len(factors) > 1 else [np.array(factors)]
    shape = tuple(int(part.prod()) for part in parts if len(part))
    result = axes.reshape(Labels(), value, shape, "view")
    whole = spread(value)
    assert result.shape == shape
    expect_same(result, None if whole is None else whole.reshape(shape))


@given(values(), st.data())
def test_reordered_and_inserted_axes_keep_their_labels(value: Value, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(value.shape))))
    place = data.draw(st.integers(0, len(order)))
    whole = spread(value)
    result = axes.insert_axes(axes.transpose(value, order), [place])
    expect_same(result, None if whole is None else np.expand_dims(whole.transpose(order), place))


@given(values(), st.data())
def test_a_slice_takes_labels_as_it_takes_entries(value: Value, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(value.shape) - 1))
    index = data.draw(st.slices(value.shape[axis]).filter(lambda found: (found.step or 1) > 0))
    result, whole = axes.take(value, axis, index), spread(value)
    assert result.shape == np.empty(value.shape)[(slice(None),) * axis + (index,)].shape
    if whole is not None:
        left = [place for place in value.groups[0].axes if place != axis or result.shape[axis] > 1]
        is_empty = axis in value.groups[0].axes and not result.shape[axis]
        assert bool(result.groups) == (bool(left) and not is_empty)
    if whole is not None and result.groups:
        expect_same(result, whole[(slice(None),) * axis + (index,)])


@given(values(), values())
def test_what_is_broadcast_has_the_shape_that_numpy_gives_it(one: Value, other: Value) -> None:
    try:
        wanted = np.broadcast_shapes(one.shape, other.shape)
    except ValueError:
        return
    assert axes.combine(Labels(), [one, other], "add").shape == wanted
