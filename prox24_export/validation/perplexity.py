"""Perplexity of a causal language model."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.validation.intervals import FloatArray, PairedRows
from prox24_export.validation.metrics import Lists

PIECE = 1 << 22  # logits held as float64 at once
LARGEST = 700.0  # exp of more is no float


@dataclass
class Perplexity:
    """Of every token but the first of each row, given those before it in the row.

    Attributes:
        stride: Where rows are windows that advance by so many tokens of one text: each token then counts once, in the
            first window that holds it. None: rows do not overlap.
    """

    stride: int | None = None
    seen: int = 0
    lists: Lists = field(default_factory=Lists)

    def add(self, dense: Array, sparse: Array, tokens: Array) -> None:
        """Counts a batch.

        Args:
            dense: Logits [rows, T, vocabulary].
            sparse: The same of the sparse model.
            tokens: Token ids [rows, T].
        """
        counted = np.ones((len(tokens), tokens.shape[-1] - 1), bool)
        if self.stride is not None:
            counted[1 if self.seen == 0 else 0 :, : -self.stride] = False
        self.seen += len(tokens)
        sides = [(_surprise(logits, tokens) * counted).sum(axis=1) for logits in (dense, sparse)]
        self.lists.add(sides[0], sides[1], counted.sum(axis=1))

    def rows(self) -> Iterator[tuple[str, PairedRows]]:
        """`perplexity`; nothing where there was no token."""
        dense, sparse, weight = self.lists.columns()
        if weight.size:
            yield "perplexity", PairedRows(dense, sparse, weight, of=_exp)


def _exp(surprise: FloatArray) -> FloatArray:
    powers: FloatArray = np.exp(np.minimum(surprise, LARGEST))
    return powers


def _surprise(logits: Array, tokens: Array) -> Array:
    """`−log p` of each next token [rows, T − 1], float64."""
    return np.stack([_row_surprise(row, ids) for row, ids in zip(logits, tokens, strict=True)])


def _row_surprise(logits: Array, tokens: Array) -> Array:
    """The same of one row, of which no more than a piece is float64 at a time."""
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
