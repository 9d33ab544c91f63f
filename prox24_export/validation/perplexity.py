"""Perplexity of a causal language model."""

import math
from dataclasses import dataclass

import numpy as np

from prox24_export.passes.graph import Array

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
    rows: int = 0
    tokens: int = 0
    dense: float = 0.0
    sparse: float = 0.0

    def add(self, dense: Array, sparse: Array, tokens: Array) -> None:
        """Counts a batch.

        Args:
            dense: Logits [rows, T, vocabulary].
            sparse: The same of the sparse model.
            tokens: Token ids [rows, T].
        """
        counted = np.ones((len(tokens), tokens.shape[-1] - 1), bool)
        if self.stride is not None:
            counted[1 if self.rows == 0 else 0 :, : -self.stride] = False
        self.rows += len(tokens)
        self.tokens += int(counted.sum())
        self.dense += float(_surprise(dense, tokens)[counted].sum())
        self.sparse += float(_surprise(sparse, tokens)[counted].sum())

    def values(self) -> list[dict[str, float]]:
        """For the dense and the sparse model; nothing where there was no token."""
        if not self.tokens:
            return [{}, {}]
        return [{"perplexity": math.exp(min(total / self.tokens, LARGEST))} for total in (self.dense, self.sparse)]


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
