"""Perplexity of a causal language model."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.validation.intervals import FloatArray, PairedRows
from prox24_export.validation.metrics import Lists

PIECE = 1 << 22  # logits held as float64 at once
TOKENS, MASK = "input_ids", "attention_mask"  # names of inputs, as transformers has them
LARGEST = 700.0  # the exponential of a larger number overflows float64


def find_token_input(graph: TracedGraph) -> str | None:
    """Finds the input that holds the token ids of a causal language model; None for other models."""
    is_fed = any(entry.name == TOKENS for entry in graph.inputs)
    return TOKENS if graph.predicts_next_token and is_fed else None


def find_kept_tokens(feeds: Feeds, tokens: Array) -> Array | None:
    """Finds which token ids [rows, T] of a batch are no padding, bool [rows, T]; None where no such mask is fed."""
    mask = feeds.get(MASK)
    if mask is None or np.shape(mask) != tokens.shape:
        return None
    kept: Array = np.asarray(mask) > 0
    return kept


@dataclass
class Perplexity:
    """The perplexity of every token but the first of each row, given the tokens before it in the row.

    Padding does not count, and neither does a token that would be predicted from padding.

    Attributes:
        stride: Where rows are windows over one text, the number of tokens by which they advance: each token then counts
            once, in the first window that holds it. None where rows do not overlap.
        seen: The number of rows so far.
        lists: The sum of `−log p` and the number of counted tokens of each row.
    """

    stride: int | None = None
    seen: int = 0
    lists: Lists = field(default_factory=Lists)

    def add(self, dense: Array, sparse: Array, tokens: Array, kept: Array | None = None) -> None:
        """Measures a batch.

        Args:
            dense: The dense model's logits [rows, T, vocabulary].
            sparse: The sparse model's logits, of the same shape.
            tokens: The token ids [rows, T].
            kept: Which of them are no padding, bool [rows, T]; None where all are.
        """
        counted = np.ones((len(tokens), tokens.shape[-1] - 1), bool)
        if self.stride is not None:
            counted[1 if self.seen == 0 else 0 :, : -self.stride] = False
        if kept is not None:
            counted &= kept[:, 1:] & kept[:, :-1]
        self.seen += len(tokens)
        surprises = [_compute_surprise(logits, tokens) for logits in (dense, sparse)]
        sides = [np.where(counted, surprise, 0.0).sum(axis=1) for surprise in surprises]
        self.lists.add(sides[0], sides[1], counted.sum(axis=1))

    def rows(self) -> Iterator[tuple[str, PairedRows]]:
        """Yields `perplexity`; nothing where no token counted."""
        dense, sparse, weight = self.lists.columns()
        if weight.size:
            yield "perplexity", PairedRows(dense, sparse, weight, of=_exponentiate)


def _exponentiate(surprise: FloatArray) -> FloatArray:
    powers: FloatArray = np.exp(np.minimum(surprise, LARGEST))
    return powers


def _compute_surprise(logits: Array, tokens: Array) -> Array:
    """Computes `−log p` of each next token, float64 [rows, T − 1]."""
    return np.stack([_compute_row_surprise(row, ids) for row, ids in zip(logits, tokens, strict=True)])


def _compute_row_surprise(logits: Array, tokens: Array) -> Array:
    """Computes the surprise of one row; no more than a piece of it is held as float64 at a time."""
    steps = max(1, PIECE // logits.shape[-1])
    pieces = []
    for start in range(0, len(tokens) - 1, steps):
        stop = min(start + steps, len(tokens) - 1)
        wide = logits[start:stop].astype(np.float64)
        wide -= wide.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(wide, tokens[start + 1 : stop + 1, None].astype(np.int64), axis=-1)[:, 0]
        pieces.append(np.log(np.exp(wide).sum(axis=-1)) - chosen)
    result: Array = np.concatenate(pieces) if pieces else np.zeros(0)
    return result
