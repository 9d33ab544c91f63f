"""What is taken for classes, and what an arg-max is where there is NaN."""

import numpy as np
import pytest

from prox24_export.validation import classes
from tests.graphs import normal


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("logits", True),
        ("start_logits", True),
        ("clsLogits", True),
        ("output_probability", True),
        ("probabilities", True),
        ("model/dense_1/Softmax:0", True),
        ("LOGITS", True),
        ("output", False),
        ("last_hidden_state", False),
        ("boxes", False),
        ("problem", False),
        ("", False),
    ],
)
def test_names_of_scores_are_recognised_by_their_words(name: str, is_named: bool) -> None:
    assert classes.is_named_as_classes(name) is is_named


def test_probabilities_and_their_logarithms_are_told_from_other_numbers() -> None:
    wide = normal(5, 1000).astype(np.float64)
    rows = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    for kind in (rows, np.log(rows), rows.astype(np.float16), np.log(rows).astype(np.float16)):
        assert classes.holds_probabilities(kind)
    for other in (wide, rows * 2, -rows, np.abs(wide), np.zeros((2, 3)), np.zeros((0, 3)), np.full((2, 3), np.nan)):
        assert not classes.holds_probabilities(other)


def test_a_row_with_nan_has_no_largest_entry() -> None:
    rows = np.array([[1.0, 3.0, 2.0], [1.0, np.nan, 2.0], [np.inf, 0.0, 0.0]])
    assert classes.find_largest(rows).tolist() == [1, -1, 0]
    assert classes.find_largest(rows[None]).tolist() == [[1, -1, 0]]
