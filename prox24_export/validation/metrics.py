"""Metrics of the dense and the sparse model, sample by sample, on the same samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array
from prox24_export.results.report import Better
from prox24_export.validation.arrays import is_float, is_image
from prox24_export.validation.classes import find_largest
from prox24_export.validation.intervals import FloatArray, PairedRows
from prox24_export.validation.output_sums import MOST_PSNR, compute_psnr

BETTER: Mapping[str, Better] = {
    "top1": "higher",
    "top5": "higher",
    "perplexity": "lower",
    "cosine": "higher",
    "psnr": "higher",
}
UNITS: Mapping[str, str] = {"top1": "points", "top5": "points", "psnr": "dB"}
"""The unit of a difference of each metric; other metrics have none."""
IGNORED = -100  # the label of what does not count, such as padding or the later pieces of a word
FIVE = 5
LEAST_CLASSES = 10  # for top-5, which says little where there are fewer
UNIT_LENGTH = 1e-3  # by how much the length of an embedding may differ from 1
PER_CENT = 100.0


@dataclass
class Lists:
    """The totals and the weight of each sample, collected over batches.

    Attributes:
        dense: The dense model's totals, one array [samples] for each batch.
        sparse: The sparse model's totals, likewise.
        weight: What each sample counts, likewise.
    """

    dense: list[Array] = field(default_factory=list)
    sparse: list[Array] = field(default_factory=list)
    weight: list[Array] = field(default_factory=list)

    def add(self, dense: Array, sparse: Array, weight: Array) -> None:
        """Takes the totals and weights of a batch, each an array [samples of the batch]."""
        for values, more in ((self.dense, dense), (self.sparse, sparse), (self.weight, weight)):
            values.append(np.asarray(more, np.float64))

    def columns(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns dense totals, sparse totals and weights of all samples that count, float64 [n] each."""
        dense, sparse, weight = (
            np.concatenate(values) if values else np.zeros(0) for values in (self.dense, self.sparse, self.weight)
        )
        counts = weight > 0
        return dense[counts], sparse[counts], weight[counts]


@dataclass
class Hits:
    """Top-1 and, where there are at least ten classes, top-5, in per cent of all labels.

    Labels [N] of logits [N, C] are classes of samples; labels [N, T] of logits [N, T, C] are those of tokens, and where
    only the first piece of every word has one (the others −100) those of words. What is resampled is always N.

    Attributes:
        index: The index of the output that the labels are of.
        top1: The hits of each sample among the largest logit.
        top5: The hits of each sample among the five largest.
    """

    index: int
    top1: Lists = field(default_factory=Lists)
    top5: Lists = field(default_factory=Lists)

    def add(self, dense: Sequence[Array], sparse: Sequence[Array], labels: Array, samples: int) -> None:
        """Counts the hits of a batch; an output whose size differs from the dense one's counts no hit.

        Args:
            dense: The outputs of the dense model.
            sparse: The outputs of the sparse model.
            labels: The true classes; −100 counts for nothing.
            samples: The number of samples in the batch.
        """
        truth = labels.reshape(-1)
        sides = [output[self.index] for output in (dense, sparse)]
        classes = sides[0].shape[-1]
        logits = [side.reshape(-1, classes) if side.shape == sides[0].shape else None for side in sides]
        for wanted, lists in ((1, self.top1), (FIVE, self.top5)):
            if wanted == 1 or classes >= LEAST_CLASSES:
                hits = [_count_hits(side, truth, wanted) for side in logits]
                dense_hits, sparse_hits, weight = (_sum_by_sample(row, samples) for row in (*hits, truth != IGNORED))
                lists.add(dense_hits, sparse_hits, weight)

    def rows(self) -> Iterator[tuple[str, PairedRows]]:
        """Yields `top1`, and `top5` where there are classes enough."""
        for name, lists in (("top1", self.top1), ("top5", self.top5)):
            dense, sparse, weight = lists.columns()
            if weight.size:
                yield name, PairedRows(PER_CENT * dense, PER_CENT * sparse, weight, atom=PER_CENT)


def _count_hits(logits: Array | None, truth: Array, most: int) -> Array:
    """Tells for each label whether it is among the `most` largest; ties go to the lower index.

    A row with NaN has no largest entries, and counts no hit.
    """
    if logits is None:
        return np.zeros(truth.size, bool)
    counted = truth != IGNORED
    column = np.where(counted, truth, 0)[:, None].astype(np.int64)
    if most == 1:
        hits: Array = (find_largest(logits) == column[:, 0]) & counted
        return hits
    own = np.take_along_axis(logits, column, axis=-1)
    before = (logits > own) | ((logits == own) & (np.arange(logits.shape[-1]) < column))
    among: Array = (before.sum(axis=-1) < most) & counted & ~np.isnan(logits).any(axis=-1)
    return among


def _sum_by_sample(values: Array, samples: int) -> FloatArray:
    sums: FloatArray = values.reshape(samples, -1).sum(axis=1, dtype=np.float64)
    return sums


@dataclass
class References:
    """Outputs against the reference that `labels` hold: PSNR of images, else cosine along the last axis.

    Attributes:
        index: The index of the output that the reference is of.
        image: Whether that output is an image.
        lists: The mean squared errors of images, else the cosines, of each sample.
        lowest: The smallest value of the reference so far.
        highest: The largest value of the reference so far.
        whole: Whether the reference has held integers only so far.
    """

    index: int
    image: bool
    lists: Lists = field(default_factory=Lists)
    lowest: float = np.inf
    highest: float = -np.inf
    whole: bool = True

    def add(self, dense: Sequence[Array], sparse: Sequence[Array], labels: Array) -> None:
        """Measures a batch; an output without the reference's shape counts as being as far from it as can be."""
        truth = labels.astype(np.float64)
        self.whole = self.whole and labels.dtype.kind in "iu"
        self.lowest, self.highest = min(self.lowest, float(truth.min())), max(self.highest, float(truth.max()))
        measure = _compute_squared_error if self.image else compute_cosine
        found = [
            measure(output[self.index].astype(np.float64), truth)
            if output[self.index].shape == truth.shape
            else np.full(len(truth), np.inf if self.image else -1.0)
            for output in (dense, sparse)
        ]
        self.lists.add(found[0], found[1], np.ones(len(truth)))

    def rows(self) -> Iterator[tuple[str, PairedRows]]:
        """Yields `psnr` or `cosine`."""
        dense, sparse, weight = self.lists.columns()
        if not weight.size:
            return
        if not self.image:
            yield "cosine", PairedRows(dense, sparse, weight)
            return
        peak = self.peak
        ratios = [np.maximum(compute_psnr(side, peak), -MOST_PSNR) for side in (dense, sparse)]
        yield "psnr", PairedRows(ratios[0], ratios[1], weight)

    @property
    def peak(self) -> float:
        """The largest difference that the reference's values can have, for the PSNR.

        It is 255 for integers, 1 for floats from 0 to 1, 2 for floats from −1 to 1, and else the range of all values.
        """
        if self.whole:
            return 255.0
        if self.lowest >= -1 and self.highest <= 1:
            return 1.0 if self.lowest >= 0 else 2.0
        return self.highest - self.lowest


def _compute_squared_error(output: Array, truth: Array) -> FloatArray:
    """Computes the mean squared error of each sample, float64 [n]; infinite where it is no number."""
    errors: FloatArray = np.square(output - truth).reshape(len(truth), -1).mean(axis=1)
    return np.where(np.isfinite(errors), errors, np.inf)


def compute_cosine(left: Array, right: Array) -> FloatArray:
    """Computes the cosine along the last axis and its mean over the other axes of each sample, float64 [n].

    A cosine is −1 where it is no number, and 1 where both vectors are zero.
    """
    dot = (left * right).sum(axis=-1)
    lengths = np.sqrt((left * left).sum(axis=-1)) * np.sqrt((right * right).sum(axis=-1))
    both_zero = ~left.any(axis=-1) & ~right.any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(both_zero, 1.0, np.where(lengths > 0, dot / lengths, 0.0))
    ratios = np.where(np.isfinite(dot) & np.isfinite(lengths), ratios, -1.0)
    means: FloatArray = np.clip(ratios, -1.0, 1.0).reshape(len(left), -1).mean(axis=1)
    return means


@dataclass
class Embeddings:
    """Cosine of each sample's embedding with that of the dense model, whose own cosine is 1.

    An output holds embeddings where `is_embedding` says so of every batch.

    Attributes:
        names: The names of the outputs.
        lists: The cosines by index of the output; None for an output that holds no embeddings.
    """

    names: Sequence[str]
    lists: dict[int, Lists | None] = field(default_factory=dict)

    def add(self, dense: Sequence[Array], sparse: Sequence[Array]) -> None:
        """Measures the outputs of a batch."""
        for index, (one, other) in enumerate(zip(dense, sparse, strict=True)):
            lists = self.lists.setdefault(index, Lists())
            if lists is None or not is_embedding(one):
                self.lists[index] = None  # one batch without embeddings excludes the output
                continue
            ones = np.ones(len(one))
            alike = one.shape == other.shape
            found = compute_cosine(one.astype(np.float64), other.astype(np.float64)) if alike else -ones
            lists.add(ones, found, ones)

    def rows(self) -> Iterator[tuple[str, PairedRows]]:
        """Yields `cosine`; where several outputs hold embeddings, each with its name behind `cosine`."""
        found = {index: lists for index, lists in self.lists.items() if lists is not None}
        for index, lists in found.items():
            columns = lists.columns()
            if columns[0].size:
                yield "cosine" if len(found) == 1 else f"cosine {self.names[index]}", PairedRows(*columns)


def is_embedding(output: Array) -> bool:
    """Whether an output is floats [N, D] whose rows have unit length and are no probabilities, some being negative."""
    if not is_float(output) or output.ndim != 2 or output.shape[-1] < 2 or not output.size:  # noqa: PLR2004 (rows, entries)
        return False
    wide = output.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=-1))
    return bool((np.abs(lengths - 1) <= UNIT_LENGTH).all() and (wide < 0).any())


def find_reference_output(outputs: Sequence[Array], labels: Array) -> int | None:
    """Finds the first float output whose reference the labels are; None where they are classes, or fit no output."""
    for index, output in enumerate(outputs):
        if is_float(output) and output.shape == labels.shape and len(labels):
            if is_image(output):
                return index
            if labels.dtype.kind == "f" and output.ndim > 1 and output.shape[-1] > 1:
                return index
    return None
