"""What is drawn at random where no data are given."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from prox24_export.data.random_samples import draw_random
from prox24_export.data.sample_list import Sample
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import Shape, X, one, refused, shapes


def random(
    inputs: tuple[Input, ...], count: int = 8, rows: Any = None, given: Any = None, seed: int = 0
) -> list[Sample]:
    return draw_random(inputs, rows or {}, given or {}, count, seed)


def values(found: list[Sample]) -> Array:
    return np.concatenate([sample.feeds["x"].reshape(-1) for sample in found])


def test_dynamic_axes_are_1_and_32_and_fixed_ones_as_declared() -> None:
    assert shapes(random(one(("N", None, "T", 5)), 2)) == [(1, 32, 32, 5)] * 2
    assert shapes(random(one((4, 5)), 2)) == [(4, 5)] * 2


def declared(**inputs: Shape) -> tuple[Input, ...]:
    return tuple(Input(name, np.dtype(np.float32), shape) for name, shape in inputs.items())


DECODER = declared(
    ids=("batch", "sequence"), mask=("batch", "past + sequence"), past=("batch", 2, "past", 8), twice=("2*batch",)
)


@pytest.mark.parametrize(
    ("inputs", "given", "drawn"),
    [
        (DECODER, {}, [(1, 32), (1, 64), (1, 2, 32, 8), (2,)]),
        (DECODER, {"ids": (2, 1), "past": (2, 2, 7, 8)}, [(2, 1), (2, 8), (2, 2, 7, 8), (4,)]),
        (DECODER, {"mask": (1, 9)}, [(1, 32), (1, 9), (1, 2, 32, 8), (2,)]),  # as it was given
        (declared(x=("N", 4), h=(1, "N", 4)), {}, [(1, 4), (1, 1, 4)]),  # one size of N, that of a first axis
        (declared(h=(1, "N", 4), x=("N", 4)), {}, [(1, 1, 4), (1, 4)]),
        (declared(x=("batch-size", "seq-len", None)), {}, [(1, 32, 32)]),  # no differences: names with a dash
    ],
)
def test_sizes_of_one_name_agree_and_expressions_have_their_value(
    inputs: tuple[Input, ...], given: Any, drawn: list[tuple[int, ...]]
) -> None:
    (sample,) = random(inputs, 1, given=given)
    assert [array.shape for array in sample.feeds.values()] == drawn


def test_given_shapes_are_used_for_unknown_ranks_too() -> None:
    assert shapes(random(one(("N", 3, "H", "W")), 1, given={"x": (2, 3, 8, 9)})) == [(2, 3, 8, 9)]
    assert shapes(random(one(None), 1, given={"x": (1, 7)})) == [(1, 7)]


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        (("N", 3), {"x": (1, 4)}, "--shapes gives 'x' [1, 4]. Expected [N, 3]."),
        (("N", 3), {"x": (1, 3, 1)}, "--shapes gives 'x' [1, 3, 1]. Expected [N, 3]."),
        (("N", 3), {"z": (1, 3), "y": (1, 3)}, "--shapes names 'y', which is no input. The inputs are: x."),
        (None, {}, "input 'x' declares no rank. Give its shape: --shapes x:1x3x224x224."),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: Shape, given: Any, said: str) -> None:
    with refused(said):
        random(one(shape), given=given)


@pytest.mark.parametrize(
    ("dtype", "rows", "low", "high"),
    [
        (np.int64, {"x": 7}, 0, 6),
        (np.int32, {}, 0, 255),
        (np.int64, {}, 0, 255),
        (np.uint8, {}, 0, 255),
        (np.uint8, {"x": 1000}, 0, 255),
        (np.int8, {}, 0, 127),
        (np.int64, {"x": 1}, 0, 0),
        (np.int64, {"x": 5000}, 0, 4999),
    ],
)
def test_integers_stay_below_the_rows_of_their_table_and_cover_the_range(
    dtype: Any, rows: dict[str, int], low: int, high: int
) -> None:
    drawn = values(random(one(("N", 4000), dtype), 20, rows))
    assert drawn.dtype == np.dtype(dtype)
    assert (int(drawn.min()), int(drawn.max())) == (low, high)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_are_normal(dtype: Any) -> None:
    drawn = values(random(one(("N", 4000), dtype)))
    assert drawn.dtype == np.dtype(dtype)
    wide = drawn.astype(np.float64)
    assert abs(wide.mean()) < 0.05
    assert abs(wide.std() - 1) < 0.05


def test_booleans_are_both_and_scalars_are_1() -> None:
    assert set(values(random(one(("N", 64), np.bool_))).tolist()) == {False, True}
    for dtype in (np.float32, np.int64, np.bool_, np.uint8):
        assert values(random(one((), dtype))).tolist() == [1] * 8


def test_other_types_cannot_be_drawn() -> None:
    with refused("input 'x' is object: no random values can be drawn. Give --calibration."):
        random(one(("N",), object))


def test_random_samples_follow_the_seed_and_differ_from_each_other() -> None:
    first, again, other = (values(random(X, 2, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:3], first[3:])


def test_sizes_that_take_more_memory_than_there_is_are_refused_before_any_is_taken() -> None:
    inputs = [Input("x", np.dtype(np.float32), (None, 8))]
    with pytest.raises(InputError, match=r"random inputs of x \[9999999999, 8\], .* smaller sizes with --shapes"):
        draw_random(inputs, {}, {"x": (9_999_999_999, 8)}, 1, 0)
