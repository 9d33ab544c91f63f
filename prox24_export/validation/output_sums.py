"""How far apart the dense and the sparse model are at one output, and how sure that is."""

import math
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.results.report import OutputReport
from prox24_export.validation import intervals
from prox24_export.validation.arrays import is_image, looks_like_classes
from prox24_export.validation.classes import find_largest, holds_probabilities

PIECE = 1 << 22  # entries that are held as float64 at once


@dataclass
class OutputSums:
    """Running sums over batches, in float64.

    Entries where both outputs hold the same infinity (a masked logit) count as equal; where only one of them does, the
    noise is infinite. NaN equals nothing.

    Attributes:
        other: The sum of squares of the sparse output.
        dot: The sum of products of both outputs.
        largest: The largest absolute difference.
        agree: The number of positions whose arg-max is the same.
        positions: The number of positions that have an arg-max.
        lowest: The smallest value of the dense output.
        highest: The largest value of the dense output.
        apart: Whether a sum cannot tell the difference: there is a NaN, or an infinity stands in one output only.
        images: Whether every batch was images.
        probabilities: Whether every row of the dense output so far holds probabilities or their logarithms.
        nans: The number of NaN in the sparse output.
        infinities: The number of infinities in the sparse output.
        masked: Whether the dense output holds an infinity.
        rows: The signal, the noise and the number of entries of each sample.
    """

    other: float = 0.0
    dot: float = 0.0
    largest: float = 0.0
    agree: int = 0
    positions: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    apart: bool = False
    images: bool = True
    probabilities: bool = True
    nans: int = 0
    infinities: int = 0
    masked: bool = False
    rows: list[tuple[float, float, int]] = field(default_factory=list)

    def add(self, dense: Array, sparse: Array, samples: int) -> None:
        """Adds a batch.

        Args:
            dense: The dense model's output.
            sparse: The sparse model's output, of the same shape.
            samples: The number of samples in the batch; they lie along the first axis where that has as many entries,
                and else count as one.
        """
        self.images = self.images and is_image(dense)
        whole = dense.ndim == 0 or len(dense) != samples
        for left, right in [(dense, sparse)] if whole else zip(dense, sparse, strict=True):
            self._add_sample(np.asarray(left).reshape(-1), np.asarray(right).reshape(-1))
        if looks_like_classes(dense):
            ours, theirs = find_largest(sparse), find_largest(dense)
            self.agree += int(((ours == theirs) & (ours >= 0)).sum())
            self.positions += theirs.size
            self.probabilities = self.probabilities and holds_probabilities(dense)

    def count_not_finite(self, dense: Array, sparse: Array) -> None:
        """Counts NaN and infinities of a batch, whatever the shapes of both outputs are."""
        if not np.isfinite(sparse).all():
            self.nans += int(np.isnan(sparse).sum())
            self.infinities += int(np.isinf(sparse).sum())
        self.masked = self.masked or bool(np.isinf(dense).any())

    def _add_sample(self, dense: Array, sparse: Array) -> None:
        signal = noise = 0.0
        for start in range(0, dense.size, PIECE):
            left, right, alike = _replace_not_finite(dense[start : start + PIECE], sparse[start : start + PIECE])
            difference = left - right
            signal += float((left * left).sum())
            noise += float((difference * difference).sum())
            self.other += float((right * right).sum())
            self.dot += float((left * right).sum())
            self.largest = max(self.largest, float(np.abs(difference).max()))
            self.lowest, self.highest = min(self.lowest, float(left.min())), max(self.highest, float(left.max()))
            self.apart = self.apart or not alike
        self.rows.append((signal, noise, dense.size))

    @property
    def not_finite(self) -> int:
        """The entries of the sparse output that are NaN, or infinite where the dense output never is."""
        return self.nans + (0 if self.masked else self.infinities)

    def report(self, name: str, *, is_classes: bool) -> OutputReport:
        """Returns the figures that follow from the sums.

        Args:
            name: The name of the output.
            is_classes: Whether the last axis is known to hold classes, whatever its values are; see `classes`.
        """
        agreement = self.agree / self.positions if self.positions and (is_classes or self.probabilities) else None
        signal, noise, _ = np.asarray(self.rows, np.float64).reshape(-1, 3).sum(axis=0)
        if self.apart or not math.isfinite(noise):
            return OutputReport(name, -math.inf, 0.0, math.inf, agreement, not_finite=self.not_finite)
        norms = math.sqrt(signal) * math.sqrt(self.other)
        low, high = self._snr_interval()
        return OutputReport(
            name=name,
            snr_db=None if noise == 0 else _compute_decibels(signal, noise),
            cosine=self.dot / norms if norms > 0 else float(noise == 0),
            max_abs_error=self.largest,
            argmax_agreement=agreement,
            snr_low=low,
            snr_high=high,
            psnr_db=self._psnr() if self.images and noise > 0 else None,
        )

    def _snr_interval(self) -> tuple[float | None, float | None]:
        table = np.asarray(self.rows, np.float64)[:, :2]
        if len(table) < intervals.LEAST or not np.isfinite(table).all() or not table.any(axis=0).all():
            return None, None
        return intervals.estimate_interval(table, lambda sums: 10 * np.log10(sums[:, 0] / sums[:, 1]))

    def _psnr(self) -> float:
        """Returns the mean PSNR in dB; its peak is the range of the dense output over all samples."""
        errors = np.array([noise / entries for _, noise, entries in self.rows])
        return float(compute_psnr(errors, self.highest - self.lowest).mean())


MOST_PSNR = 100.0  # dB; that of an equal image would be infinite, and so would the mean of all


def compute_psnr(mean_squared_errors: Array, peak: float) -> Array:
    """Computes the peak signal-to-noise ratio of images in dB: `10·log10(peak² / mean squared error)`, at most 100."""
    with np.errstate(divide="ignore"):
        ratios: Array = 10 * np.log10(np.float64(peak) ** 2 / mean_squared_errors)
    return np.minimum(ratios, MOST_PSNR)


def _compute_decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _replace_not_finite(dense: Array, sparse: Array) -> tuple[Array, Array, bool]:
    """Returns both as float64 with 0 for NaN and Inf, and whether these were the same infinities in both."""
    left, right = dense.astype(np.float64), sparse.astype(np.float64)
    odd = ~(np.isfinite(left) & np.isfinite(right))
    if not odd.any():
        return left, right, True
    alike = np.array_equal(left[odd], right[odd])  # NaN equals nothing
    return np.where(odd, 0.0, left), np.where(odd, 0.0, right), alike
