"""Outputs as ONNX Runtime returns them, read as arrays where they hold floats."""

from typing import Any

import numpy as np
import pytest

from prox24_export.validation.arrays import holds_nan, read_output


def test_dictionaries_by_class_become_one_column_a_class() -> None:
    rows = [{3: np.float32(0.25), 7: np.float32(0.75)}, {3: np.float32(1.0), 7: np.float32(0.0)}]
    found = read_output(rows)
    assert found.dtype == np.float32
    assert found.tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_a_sequence_of_float_arrays_becomes_one_row() -> None:
    assert read_output([np.ones((2, 2), np.float32), np.zeros(1, np.float32)]).tolist() == [1, 1, 1, 1, 0]
    uneven = [{"a": 1.0}, {"b": 2.0}]
    assert read_output(uneven).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "output", [np.arange(3), [np.arange(3)], [], None, [{"a": 1}], ["a"], [np.ones(2), np.arange(2)]]
)
def test_what_does_not_hold_floats_alone_stays_as_it_is(output: Any) -> None:
    assert read_output(output) is output


@pytest.mark.parametrize(
    ("output", "holds"),
    [
        (np.array([1.0, np.nan]), True),
        (np.array([1.0, np.inf]), False),
        (np.array([1, 2]), False),
        ([np.arange(2), np.array([np.nan], np.float16)], True),
        ([{"a": float("nan")}], True),
        ([{"a": "text"}], False),
        (None, False),
    ],
)
def test_nan_is_found_wherever_it_lies(output: Any, holds: bool) -> None:
    assert holds_nan(output) is holds
