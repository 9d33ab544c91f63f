"""Dense against sparse, on samples that were used for nothing else."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prox24_export.errors import InputError
from prox24_export.passes.graph import Array
from prox24_export.report.model import AccuracyReport, OutputReport
from prox24_export.validation.perplexity import Perplexity

Model = Callable[[Mapping[str, Array]], Sequence[Array]]
PIECE = 1 << 22  # entries held as float64 at once
MOST_CLASS_AXES = 3  # [N, C] or [N, T, C]; a fourth axis is an image


@dataclass
class _Output:
    """Running sums over batches, float64.

    Entries where both outputs hold the same NaN or Inf (a masked logit) count as equal; where only one does, the
    noise is infinite.
    """

    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    largest: float = 0.0
    agree: int = 0
    positions: int = 0

    def add(self, dense: Array, sparse: Array) -> None:
        if dense.shape != sparse.shape:  # its size depends on the data, as that of detections does
            self.noise = math.inf
            return
        pieces = max(1, dense.size // PIECE)
        for one, other in zip(*(np.array_split(side.reshape(-1), pieces) for side in (dense, sparse)), strict=True):
            left, right, alike = _finite(one, other)
            difference = left - right
            self.signal += float((left * left).sum())
            self.other += float((right * right).sum())
            self.noise += float((difference * difference).sum()) if alike else math.inf
            self.dot += float((left * right).sum())
            self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        if looks_like_classes(dense):
            self.agree += int((dense.argmax(-1) == sparse.argmax(-1)).sum())
            self.positions += dense.argmax(-1).size

    def report(self, name: str) -> OutputReport:
        """The sums as figures."""
        if not math.isfinite(self.noise):
            return OutputReport(name, -math.inf, 0.0, math.inf, self._agreement)
        norms = math.sqrt(self.signal) * math.sqrt(self.other)
        return OutputReport(
            name=name,
            snr_db=self._snr(),
            cosine=self.dot / norms if norms > 0 else float(self.noise == 0),
            max_abs_error=self.largest,
            argmax_agreement=self._agreement,
        )

    def _snr(self) -> float | None:
        if self.noise == 0:
            return None
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf

    @property
    def _agreement(self) -> float | None:
        return self.agree / self.positions if self.positions else None


def _finite(dense: Array, sparse: Array) -> tuple[Array, Array, bool]:
    """Both as float64 with 0 for NaN and Inf, and whether the same of those stood in both."""
    left, right = dense.astype(np.float64), sparse.astype(np.float64)
    odd = ~(np.isfinite(left) & np.isfinite(right))
    if not odd.any():
        return left, right, True
    alike = np.array_equal(left[odd], right[odd], equal_nan=True)
    return np.where(odd, 0.0, left), np.where(odd, 0.0, right), alike


@dataclass
class _Top1:
    dense: int = 0
    sparse: int = 0
    total: int = 0
    index: int | None = field(default=None)

    def add(self, dense: Sequence[Array], sparse: Sequence[Array], labels: Array) -> None:
        if self.index is None:
            self.index = labelled_output(dense, labels)
        truth = labels.reshape(-1)
        self.dense += int((dense[self.index].argmax(-1).reshape(-1) == truth).sum())
        if sparse[self.index].shape == dense[self.index].shape:
            self.sparse += int((sparse[self.index].argmax(-1).reshape(-1) == truth).sum())
        self.total += truth.size


def compare(
    dense: Model,
    sparse: Model,
    names: Sequence[str],
    batches: Iterable[tuple[Mapping[str, Array], Array | None]],
    *,
    samples: int,
    next_token: str | None = None,
    stride: int | None = None,
    tick: Callable[[], None],
) -> AccuracyReport:
    """Runs both models on the same batches.

    Args:
        dense: Feeds to outputs, in the order of `names`.
        sparse: The same.
        names: Outputs of both.
        batches: (feeds, labels or None).
        samples: How many the batches hold.
        next_token: Input whose next token the first output predicts: perplexity is then measured.
        stride: See `Perplexity`.
        tick: Called once a batch.

    Raises:
        InputError: Labels fit no output.
    """
    sums: dict[int, _Output] = {}
    top1, perplexity = _Top1(), Perplexity(stride)
    for feeds, labels in batches:
        left, right = dense(feeds), sparse(feeds)
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            if is_float(one):
                sums.setdefault(index, _Output()).add(one, other)
        if labels is not None:
            top1.add(left, right, labels)
        if next_token is not None:
            perplexity.add(left[0], right[0], feeds[next_token])
        tick()
    metrics = [{}, {}] if not top1.total else [{"top1": 100 * hit / top1.total} for hit in (top1.dense, top1.sparse)]
    metrics = [metric | value for metric, value in zip(metrics, perplexity.values(), strict=True)]
    outputs = tuple(sums[index].report(names[index]) for index in sorted(sums))
    return AccuracyReport(samples, metrics[0], metrics[1], outputs)


def labelled_output(outputs: Sequence[Array], labels: Array) -> int:
    """Index of the float output that the labels are of.

    It has one arg-max per label and a class for each. Where several do, such as an embedding beside the logits, it is
    the one whose arg-max agrees with most labels.

    Raises:
        InputError: There is none, or labels are not integers.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(f"'labels' are {labels.dtype}. Expected integers: the index of the true class.")
    truth = labels.reshape(-1)
    hits = {
        index: int((output.argmax(-1).reshape(-1) == truth).sum())
        for index, output in enumerate(outputs)
        if is_float(output) and has_classes(output) and output[..., 0].size == truth.size
        if truth.size and truth.min() >= 0 and truth.max() < output.shape[-1]
    }
    if hits:
        return max(hits, key=lambda index: hits[index])
    span = f"from {truth.min()} to {truth.max()} " if truth.size else ""
    shapes = [list(output.shape) for output in outputs if isinstance(output, np.ndarray)]
    raise InputError(
        f"'labels' of shape {list(labels.shape)} {span}fit no output; "
        f"outputs have shapes {shapes}. Expected one label per arg-max over the last axis of a float output, counted "
        "from 0."
    )


def is_float(output: Array) -> bool:
    """Whether an output is a tensor of floats."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def has_classes(output: Array) -> bool:
    """Whether an arg-max over the last axis says anything."""
    return output.ndim > 1 and output.shape[-1] > 1


def looks_like_classes(output: Array) -> bool:
    """[N, C] or [N, T, C] with at least two classes."""
    return has_classes(output) and output.ndim <= MOST_CLASS_AXES
