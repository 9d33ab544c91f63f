"""Dense against sparse through ONNX Runtime, on samples that were used for nothing else."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prox24_export.errors import InputError
from prox24_export.passes.graph import Array
from prox24_export.report.model import AccuracyReport, OutputReport

Model = Callable[[Mapping[str, Array]], Sequence[Array]]
MOST_CLASS_AXES = 3  # [N, C] or [N, T, C]; a fourth axis is an image


@dataclass
class _Output:
    """Running sums over batches, float64."""

    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    largest: float = 0.0
    agree: int = 0
    positions: int = 0

    def add(self, dense: Array, sparse: Array) -> None:
        left, right = dense.astype(np.float64), sparse.astype(np.float64)
        difference = left - right
        self.signal += float((left * left).sum())
        self.other += float((right * right).sum())
        self.noise += float((difference * difference).sum())
        self.dot += float((left * right).sum())
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        if looks_like_classes(dense):
            self.agree += int((dense.argmax(-1) == sparse.argmax(-1)).sum())
            self.positions += dense.argmax(-1).size

    def report(self, name: str) -> OutputReport:
        """The sums as figures."""
        norms = math.sqrt(self.signal * self.other)
        snr = None
        if self.noise > 0:
            snr = 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf
        return OutputReport(
            name=name,
            snr_db=snr,
            cosine=self.dot / norms if norms > 0 else float(self.noise == 0),
            max_abs_error=self.largest,
            argmax_agreement=self.agree / self.positions if self.positions else None,
        )


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
        self.sparse += int((sparse[self.index].argmax(-1).reshape(-1) == truth).sum())
        self.total += truth.size


def compare(
    dense: Model,
    sparse: Model,
    names: Sequence[str],
    batches: Iterable[tuple[Mapping[str, Array], Array | None, int]],
    tick: Callable[[], None],
) -> AccuracyReport:
    """Runs both models on the same batches.

    Args:
        dense: Feeds to outputs, in the order of `names`.
        sparse: The same.
        names: Outputs of both.
        batches: (feeds, labels or None, number of samples).
        tick: Called once a batch.

    Raises:
        InputError: Labels fit no output.
    """
    sums: dict[int, _Output] = {}
    top1 = _Top1()
    samples = 0
    for feeds, labels, count in batches:
        left, right = dense(feeds), sparse(feeds)
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            if is_float(one):
                sums.setdefault(index, _Output()).add(one, other)
        if labels is not None:
            top1.add(left, right, labels)
        samples += count
        tick()
    metrics = [{}, {}] if not top1.total else [{"top1": 100 * hit / top1.total} for hit in (top1.dense, top1.sparse)]
    outputs = tuple(sums[index].report(names[index]) for index in sorted(sums))
    return AccuracyReport(samples, metrics[0], metrics[1], outputs)


def labelled_output(outputs: Sequence[Array], labels: Array) -> int:
    """Index of the first float output with one arg-max per label.

    Raises:
        InputError: There is none, or labels are not integers.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(f"'labels' are {labels.dtype}. Expected integers: the index of the true class.")
    for index, output in enumerate(outputs):
        if is_float(output) and output.ndim > 1 and output[..., 0].size == labels.size:
            return index
    shapes = [list(output.shape) for output in outputs if isinstance(output, np.ndarray)]
    raise InputError(
        f"'labels' of shape {list(labels.shape)} fit no output; outputs have shapes {shapes}. "
        "Expected one label per arg-max over the last axis of an output."
    )


def is_float(output: Array) -> bool:
    """Whether an output is a tensor of floats."""
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def looks_like_classes(output: Array) -> bool:
    """[N, C] or [N, T, C] with at least two classes."""
    return 1 < output.ndim <= MOST_CLASS_AXES and output.shape[-1] > 1
