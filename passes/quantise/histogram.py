"""Histograms of magnitudes that are filled a batch at a time, whatever range the next batch has."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from prox24_export.passes.graph.arrays import PIECE, Array

BINS = 4096  # an even number: where a magnitude lies beyond the end, neighbours are joined and the range doubles


@dataclass
class Histogram:
    """The magnitudes of a value over all batches so far, in bins of equal width from 0 on.

    Attributes:
        counts: Number of entries in each bin.
        end: The end of the last bin; 0 where no entry but zeros was seen.
        largest: The largest finite magnitude.
        finite: Whether no entry was NaN or Inf. Those are in no bin.
        zeros: Number of entries that are zero. They are in no bin, because every scale keeps them.
    """

    counts: Float[np.ndarray, "4096"] = field(default_factory=lambda: np.zeros(BINS))
    end: float = 0.0
    largest: float = 0.0
    finite: bool = True
    zeros: int = 0

    @property
    def size(self) -> int:
        """Number of finite entries seen."""
        return int(self.counts.sum()) + self.zeros

    def add(self, array: Array) -> None:
        """Adds the entries of a float array of any shape."""
        for piece in np.array_split(array.reshape(-1), max(1, array.size // PIECE)):
            magnitude = np.abs(piece.astype(np.float64))
            sound = magnitude[np.isfinite(magnitude)]
            self.finite = self.finite and sound.size == magnitude.size
            positive = sound[sound > 0]
            self.zeros += sound.size - positive.size
            if positive.size:
                self._reach(float(positive.max()))
                self.counts += np.histogram(positive, BINS, (0.0, self.end))[0]

    def _reach(self, magnitude: float) -> None:
        """Doubles the range until it holds a magnitude."""
        self.largest = max(self.largest, magnitude)
        self.end = self.end or magnitude
        while self.end < magnitude:
            joined = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([joined, np.zeros(BINS // 2)])
            self.end *= 2
