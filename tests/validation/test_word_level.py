"""Edit distance against its definition, and the metric that a user makes of it."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.validation.word_level import edit_distance, error_counts, greedy_ctc

words = st.text("ab", max_size=7)


@cache
def by_definition(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        by_definition(one[1:], other) + 1,
        by_definition(one, other[1:]) + 1,
        by_definition(one[1:], other[1:]) + (one[0] != other[0]),
    )


@given(words, words)
def test_the_edit_distance_is_that_of_the_recursive_definition(one: str, other: str) -> None:
    assert edit_distance(one, other) == by_definition(one, other) == edit_distance(other, one)


@pytest.mark.parametrize(
    ("reference", "found", "errors"),
    [("the cat sat", "the cat sat", 0), ("the cat sat", "a cat", 2), ("", "a b", 2), ("kitten a", "sitting a b", 2)],
)
def test_words_are_compared_whole(reference: str, found: str, errors: int) -> None:
    assert edit_distance(reference.split(), found.split()) == errors


def test_errors_and_words_of_every_sample() -> None:
    errors, total = error_counts([(["a", "b", "c"], ["a", "c"]), (["d"], ["d"])])
    assert (errors.tolist(), total.tolist()) == ([1, 0], [3, 1])


def test_repeats_are_taken_once_and_blanks_part_them() -> None:
    steps = np.array([[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 3, 3, 3, 3, 3, 3]])
    assert greedy_ctc(np.eye(4)[steps]) == [[1, 1, 2], [3]]
    assert greedy_ctc(np.eye(4)[steps], blank=3) == [[0, 1, 0, 1, 2, 0], []]
