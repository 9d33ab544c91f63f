"""Types and shapes of given arrays: what is cast, how they divide into samples, what is refused."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from prox24_export.data.batches import join_samples
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import PAIR, Shape, X, one, read, refused, shapes
from tests.graphs import normal


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.float16, np.float32),
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.float32, ml_dtypes.bfloat16),
        (np.int16, np.int32),
        (np.int64, np.int32),
        (np.uint8, np.int64),
        (np.bool_, np.bool_),
        (np.uint8, np.uint8),
    ],
)
def test_a_type_whose_values_mean_the_same_is_cast(given: Any, wanted: Any) -> None:
    array = np.array([[0, 1, 1]]).astype(given)
    (sample,) = read([{"x": array}], one(("N", 3), wanted))
    assert sample.feeds["x"].dtype == np.dtype(wanted)
    np.testing.assert_array_equal(sample.feeds["x"].astype(np.float64), array.astype(np.float64))


@pytest.mark.parametrize(
    ("array", "wanted", "said"),
    [
        (np.zeros((1, 3), np.uint8), np.float32, "'x' is uint8 from 0 to 0. Expected float32"),
        (np.zeros((1, 3), np.int64), np.float32, "'x' is int64 from 0 to 0. Expected float32"),
        (np.zeros((1, 3), np.float32), np.int64, "'x' is float32. Expected int64"),
        (np.zeros((1, 3), np.bool_), np.float32, "'x' is bool. Expected float32"),
        (np.zeros((1, 3), np.int64), np.bool_, "Expected bool"),
        (np.array([[0, 1, 2**31]]), np.int32, "'x' is int64 from 0 to 2147483648. Expected int32"),
        (np.array([[0, -1, 5]]), np.uint8, "'x' is int64 from -1 to 5. Expected uint8"),
        (np.array([["a", "b", "c"]]), np.float32, "'x' is <U1. Expected float32"),
        (np.zeros((1, 3), np.complex64), np.float32, "'x' is complex64. Expected float32"),
        (np.array([[1, 2, 1e300]]), np.float32, "'x' is float64 and too large for float32, first in sample 0."),
        (np.array([[1, 2, 7e4]], np.float32), np.float16, "'x' is float32 and too large for float16"),
    ],
)
def test_a_type_that_means_something_else_is_refused(array: Array, wanted: Any, said: str) -> None:
    with refused(said):
        read([{"x": array}], one(("N", 3), wanted))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_nan_and_inf_are_refused_with_the_array_and_the_sample(bad: float, dtype: Any) -> None:
    array = normal(9, 3).astype(dtype)
    array[6, 1] = bad
    with refused("--calibration batch 1: 'x' holds NaN or Inf, first in sample 6. Expected finite values"):
        read([{"x": normal(2, 3)}, {"x": array}])


GONE = -np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", [[[0, GONE, GONE], [0, 0, GONE]], [[-3, -1, GONE], [-0.0, -2, -1]]])
def test_minus_inf_of_an_additive_mask_is_kept(rows: Any, dtype: Any) -> None:
    first, second = read([{"x": np.array(rows)}], one(("N", 3), dtype))
    kept = np.concatenate([first.feeds["x"], second.feeds["x"]])
    np.testing.assert_array_equal(kept, np.array(rows, dtype))


@pytest.mark.parametrize(
    ("rows", "dtype", "said"),
    [
        ([[0, 0, GONE], [GONE] * 3], np.float32, "'x' holds NaN or Inf, first in sample 0."),  # nothing is left
        ([[0, 0, 0], [0, 1, GONE]], np.float32, "'x' holds NaN or Inf, first in sample 1."),  # data, and no mask
        ([[0, 0, GONE], [0, 0, np.nan]], np.float32, "'x' holds NaN or Inf, first in sample 0."),
        ([[0, 0, GONE], [0, 0, np.inf]], np.float32, "'x' holds NaN or Inf, first in sample 0."),
        ([[0, 0, GONE], [0, 0, -7e4]], np.float16, "'x' is float64 and too large for float16, first in sample 1."),
    ],
)
def test_minus_inf_of_other_arrays_is_refused(rows: Any, dtype: Any, said: str) -> None:
    with refused(said):
        read([{"x": np.array(rows)}], one(("N", 3), dtype))


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        (("N", 3), (6, 3), [(1, 3)] * 6),
        ((None, None, 3), (2, 7, 3), [(1, 7, 3)] * 2),
        ((1, 3), (6, 3), [(1, 3)] * 6),
        ((4, 3), (8, 3), [(4, 3)] * 2),
        ((4,), (8,), [(4,)] * 2),
        ((), (3,), [()] * 3),
        ((), (), [()]),
        (None, (2, 5, 5), [(1, 5, 5)] * 2),
    ],
)
def test_arrays_divide_into_samples_along_their_first_axis(
    declared: Shape, given: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    array = normal(*given)
    found = read([{"x": array}], one(declared))
    assert shapes(found) == expected
    np.testing.assert_array_equal(np.concatenate([s.feeds["x"].reshape(-1) for s in found]), array.reshape(-1))


@pytest.mark.parametrize(
    ("declared", "given", "said"),
    [
        (("N", 3), (6, 4), "'x' has shape [6, 4]. Expected [N, 3], the first axis running over samples."),
        (("N", 3), (3,), "'x' has shape [3]. Expected [N, 3]"),
        (("N", 3), (1, 6, 3), "'x' has shape [1, 6, 3]. Expected [N, 3]"),
        ((None, 3), (), "'x' has shape []. Expected [?, 3]"),
        ((4, 3), (6, 3), "'x' has 6 items. Expected a multiple of the model's fixed batch size 4."),
        ((), (2, 2), "'x' has shape [2, 2]. Expected []"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(declared: Shape, given: tuple[int, ...], said: str) -> None:
    with refused(said):
        read([{"x": normal(*given)}], one(declared))


def test_an_array_without_axes_is_the_same_for_every_sample() -> None:
    inputs = (*X, Input("rate", np.dtype(np.int64), ()))
    found = read([{"x": normal(4, 3), "rate": 16000}], inputs)
    assert shapes(found) == [(1, 3)] * 4
    assert [sample.feeds["rate"].shape for sample in found] == [()] * 4
    assert {int(sample.feeds["rate"]) for sample in found} == {16000}


FLAG = Input("flag", np.dtype(np.bool_), (1,))


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 7), (4, 2)])
def test_an_array_of_a_fixed_shape_is_the_same_for_every_sample(shape: tuple[int, ...]) -> None:
    """As the flag of a merged decoder, beside inputs with a dynamic first axis."""
    shared = normal(*shape)
    inputs = (Input("shared", shared.dtype, shape), *X, FLAG)
    found = read([{"x": normal(6, 3), "shared": shared, "flag": np.array([True])}], inputs)
    assert shapes(found, "x") == [(1, 3)] * 6
    assert all(np.array_equal(sample.feeds["shared"], shared) for sample in found)
    assert [sample.feeds["flag"].tolist() for sample in found] == [[True]] * 6
    joined = list(join_samples(found, inputs, 32))
    assert [feeds["x"].shape for feeds, _ in joined] == [(1, 3)] * 6, "what is shared could mean one sample only"
    assert all(np.array_equal(feeds["shared"], shared) for feeds, _ in joined)


def test_an_array_of_a_fixed_shape_may_also_differ_from_sample_to_sample() -> None:
    found = read([{"x": normal(4, 3), "flag": np.array([True, False, False, True])}], (*X, FLAG))
    assert [sample.feeds["flag"].tolist() for sample in found] == [[True], [False], [False], [True]]


def test_every_item_of_an_iterable_divides_by_itself() -> None:
    """One item with 3 samples, and one that is a sample: what is shared stays with its item."""
    items = [{"x": normal(3, 3), "flag": np.array([True])}, {"x": normal(1, 3), "flag": np.array([False])}]
    found = read(items, (*X, FLAG))
    assert [bool(sample.feeds["flag"][0]) for sample in found] == [True, True, True, False]


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ((*X, FLAG), {"x": normal(6, 3), "flag": np.array([True, False])}),
        ((Input("x", np.dtype(np.float32), (1, 3)), FLAG), {"x": normal(6, 3), "flag": np.array([True])}),
        ((Input("rate", np.dtype(np.int64), ()), FLAG), {"rate": np.arange(5), "flag": np.array([True])}),
        ((*PAIR, FLAG), {"a": normal(4, 3), "b": np.arange(5), "flag": np.array([True])}),
    ],
)
def test_a_fixed_shape_that_is_not_shared_for_certain_is_refused(
    inputs: tuple[Input, ...], given: dict[str, Array]
) -> None:
    with refused("the arrays hold different numbers of samples"):
        read([given], inputs)


def test_a_graph_and_its_list_of_edges_are_one_feed() -> None:
    """The list is no shared array: its second axis is dynamic, and its entries are rows of the other array."""
    inputs = (*X, Input("edges", np.dtype(np.int64), (2, "E")))
    (sample,) = read([{"x": normal(6, 3), "edges": np.zeros((2, 9), np.int64)}], inputs)
    assert (sample.feeds["x"].shape, sample.feeds["edges"].shape) == ((6, 3), (2, 9))


def test_different_numbers_of_samples_are_refused() -> None:
    with refused("the arrays hold different numbers of samples: a [4, 3], b [5]. Expected the same number"):
        read([{"a": normal(4, 3), "b": np.arange(5)}], PAIR)


def test_arrays_whose_first_axes_have_nothing_to_do_with_each_other_are_one_feed() -> None:
    inputs = (Input("x", np.dtype(np.float32), ("T", 3)), Input("state", np.dtype(np.float32), ("layers", 2)))
    (sample,) = read([{"x": normal(7, 3), "state": normal(4, 2)}], inputs)
    assert (sample.feeds["x"].shape, sample.feeds["state"].shape) == ((7, 3), (4, 2))


@pytest.mark.parametrize(
    ("labels", "expected"), [(np.arange(8), (4,)), (np.zeros((2, 5), int), (1, 5)), (np.arange(2), (1,))]
)
def test_labels_divide_as_the_samples_do(labels: Array, expected: tuple[int, ...]) -> None:
    found = read([{"x": normal(8, 3), "labels": labels}], one((4, 3)))
    assert [sample.labels.shape for sample in found if sample.labels is not None] == [expected] * 2


def test_a_single_label_needs_no_axis() -> None:
    (sample,) = read([{"x": normal(1, 3), "labels": 2}])
    assert sample.labels is not None
    assert sample.labels.tolist() == [2]
