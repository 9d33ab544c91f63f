"""The share of equal entries, against counts made by hand."""

from typing import Any

import numpy as np
import pytest

from prox24_export.validation.equal_entries import count_equal


@pytest.mark.parametrize(
    ("dense", "sparse", "equal", "entries"),
    [
        (np.array([1, 2, 3]), np.array([1, 0, 3]), 2, 3),
        (np.array([[True], [False]]), np.array([[True], [True]]), 1, 2),
        (np.array(["a", "b"]), np.array(["a", "c"]), 1, 2),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), 2, 2),
        (np.array([1, 2]), np.array([1, 2, 3]), 0, 3),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 1, 2),
        ([np.array([1, 2]), np.array([3])], [np.array([1, 0]), np.array([3])], 2, 3),
        ([np.array([1, 2]), np.array([3, 4, 5])], [np.array([1, 2])], 2, 5),
        ([], [np.array([3, 4])], 0, 2),
        ([{"a": 1, "b": 2}], [{"a": 1, "c": 2}], 1, 3),
        ({"a": [1, 2]}, {"a": 1}, 0, 2),
        (None, None, 1, 1),
        (None, np.array([1, 2]), 0, 2),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), 0, 0),
    ],
)
def test_entries_are_counted(dense: Any, sparse: Any, equal: int, entries: int) -> None:
    assert count_equal(dense, sparse) == (equal, entries)
    assert count_equal(sparse, dense) == (equal, entries)
