"""The dense model against the sparse one, on samples that were used for nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner
from prox24_export.results.report import AccuracyReport, OutputReport
from prox24_export.validation import intervals
from prox24_export.validation.arrays import has_classes, is_float, is_image, read_output
from prox24_export.validation.classes import find_largest, is_named_as_classes
from prox24_export.validation.intervals import PairedRows
from prox24_export.validation.metrics import BETTER, IGNORED, Embeddings, Hits, References, find_reference_output
from prox24_export.validation.output_comparison import OutputComparison
from prox24_export.validation.perplexity import Perplexity, find_kept_tokens

if TYPE_CHECKING:
    from prox24_export.results.change import Change


@dataclass
class _Sums:
    """Everything that is measured, summed up over batches."""

    names: Sequence[str]
    next_token: str | None
    perplexity: Perplexity
    outputs: dict[int, OutputComparison] = field(default_factory=dict)
    labelled: Hits | References | None = None
    embeddings: Embeddings = field(init=False)

    def __post_init__(self) -> None:
        self.embeddings = Embeddings(self.names)

    def add(
        self, feeds: Mapping[str, Array], labels: Array | None, dense: Sequence[Array], sparse: Sequence[Array]
    ) -> None:
        samples = _count_samples(feeds, labels)
        for index, (one, other) in enumerate(zip(dense, sparse, strict=True)):
            self.outputs.setdefault(index, OutputComparison()).add(one, other, samples)
        if labels is not None:
            self._add_labelled(dense, sparse, labels, samples)
        if self.next_token is not None:
            tokens = feeds[self.next_token]
            self.perplexity.add(dense[0], sparse[0], tokens, find_kept_tokens(feeds, tokens))
        self.embeddings.add(dense, sparse)

    def _add_labelled(self, dense: Sequence[Array], sparse: Sequence[Array], labels: Array, samples: int) -> None:
        if self.labelled is None:
            index = find_labelled_output(dense, labels)
            reference = find_reference_output(dense, labels) is not None
            self.labelled = References(index, is_image(dense[index])) if reference else Hits(index)
        if isinstance(self.labelled, Hits):
            self.labelled.add(dense, sparse, labels, samples)
        else:
            self.labelled.add(dense, sparse, labels)

    def reports(self) -> tuple[OutputReport, ...]:
        """Returns what is known of every output, in the order of the outputs."""
        return tuple(
            compared.report(self.names[index], is_classes=self._holds_classes(index))
            for index, compared in sorted(self.outputs.items())
        )

    def _holds_classes(self, index: int) -> bool:
        """Whether the last axis of an output is known to hold classes, whatever its values are; see `classes`."""
        labelled = isinstance(self.labelled, Hits) and self.labelled.index == index
        return labelled or (self.next_token is not None and index == 0) or is_named_as_classes(self.names[index])

    def rows(self) -> dict[str, PairedRows]:
        """Returns every metric by name; embeddings count where nothing else says what the model is worth."""
        found = {} if self.labelled is None else dict(self.labelled.rows())
        found |= dict(self.perplexity.rows())
        return found or dict(self.embeddings.rows())


def compare_models(
    dense: Runner,
    sparse: Runner,
    names: Sequence[str],
    batches: Iterable[tuple[Mapping[str, Array], Array | None]],
    *,
    samples: int,
    next_token: str | None = None,
    stride: int | None = None,
    tick: Callable[[], None],
) -> AccuracyReport:
    """Runs both models on the same batches and measures how they differ.

    Args:
        dense: Runs the dense model: from feeds to outputs, in the order of `names`.
        sparse: Runs the sparse model, likewise.
        names: The names of the outputs of both.
        batches: The feeds of each batch, with its labels or None.
        samples: The number of samples in all batches.
        next_token: The input whose next token the first output predicts, for which perplexity is measured; None where
            there is no such input.
        stride: The number of tokens by which windows advance; see `Perplexity`.
        tick: Called once for each batch.

    Raises:
        InputError: The labels fit no output.
    """
    sums = _Sums(names, next_token, Perplexity(stride))
    for feeds, labels in batches:
        sums.add(feeds, labels, [*map(read_output, dense(feeds))], [*map(read_output, sparse(feeds))])
        tick()
    rows = sums.rows()
    values = {name: row.values() for name, row in rows.items()}
    changes: list[Change | None] = [intervals.estimate_change(name, row) for name, row in rows.items()]
    return AccuracyReport(
        samples=samples,
        dense={name: value for name, (value, _) in values.items()},
        sparse={name: value for name, (_, value) in values.items()},
        outputs=sums.reports(),
        changes=tuple(change for change in changes if change is not None),
        better={name: BETTER[name.split()[0]] for name in rows},
    )


def _count_samples(feeds: Mapping[str, Array], labels: Array | None) -> int:
    """Counts the samples of a batch: by the first axis of its inputs, unless the labels contradict that."""
    sizes = {len(array) for array in feeds.values() if np.ndim(array)}
    count = max(sizes, default=1)
    if labels is None:
        return count
    return count if len(sizes) == 1 and count and labels.size % count == 0 else len(labels)


def find_labelled_output(outputs: Sequence[Array], labels: Array) -> int:
    """Finds the float output that the labels are of, and returns its index.

    Labels that are floats of an output's shape, or an image, are the reference of that output. Else the output has one
    arg-max for each label and a class for each value; where several outputs do, such as an embedding beside the logits,
    it is the one whose arg-max agrees with most labels. A label of −100 counts for nothing.

    Args:
        outputs: The outputs of the dense model for a batch.
        labels: The labels of the batch.

    Raises:
        InputError: There is no such output, or the labels are neither integers nor a reference.
    """
    reference = find_reference_output(outputs, labels)
    if reference is not None:
        return reference
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"'labels' are {labels.dtype}. Expected integers: the index of the true class. Floats are taken as the "
            "reference of an output of the same shape (images, or vectors along the last axis)."
        )
    truth = labels.reshape(-1)
    counted = truth != IGNORED
    known = truth[counted]
    hits = {
        index: int((find_largest(output).reshape(-1) == truth)[counted].sum())
        for index, output in enumerate(outputs)
        if is_float(output) and has_classes(output) and output[..., 0].size == truth.size
        if truth.size and (not known.size or (known.min() >= 0 and known.max() < output.shape[-1]))
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
