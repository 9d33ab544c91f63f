"""Which tokens count for the perplexity of a language model."""

import numpy as np
import pytest

from prox24_export.validation.perplexity import Perplexity, find_kept_tokens
from tests.graphs import normal


def measured(perplexity: Perplexity) -> tuple[float, float]:
    (row,) = (row for _, row in perplexity.rows())
    return row.values()


@pytest.mark.parametrize(("begin", "end"), [(0, 4), (2, 6), (1, 5)])
def test_padding_on_either_side_counts_for_nothing_even_where_its_logits_are_nan(begin: int, end: int) -> None:
    dense, sparse, tokens = normal(2, 6, 8), normal(2, 6, 8, seed=1), np.arange(12).reshape(2, 6) % 8
    mask = np.zeros((2, 6), np.int64)
    mask[:, begin:end] = 1
    alone, whole = Perplexity(), Perplexity()
    alone.add(dense[:, begin:end], sparse[:, begin:end], tokens[:, begin:end])
    dense[:, end:] = np.nan
    whole.add(dense, sparse, tokens, find_kept_tokens({"attention_mask": mask}, tokens))
    assert measured(whole) == pytest.approx(measured(alone))


def test_a_mask_of_another_shape_is_not_one_of_tokens() -> None:
    tokens = np.zeros((2, 6), np.int64)
    assert find_kept_tokens({}, tokens) is None
    assert find_kept_tokens({"attention_mask": np.ones((2, 1, 6, 6))}, tokens) is None
