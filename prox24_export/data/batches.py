"""Batches: samples that are joined for one call of the model, as they are or to be read later."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from prox24_export.data.checked_arrays import can_join
from prox24_export.data.sample_list import Sample, count_entries, list_shapes, read_array
from prox24_export.passes.calibrate.streams import Batch
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Input

BATCH = 32
BATCH_VALUES = 1 << 22  # input entries in one batch


class BatchFeeds(Mapping[str, Array]):
    """The feeds of one batch, by input name; an array is joined each time that it is asked for."""

    def __init__(self, samples: Sequence[Sample], start: int, stop: int) -> None:
        """Names the samples of the batch: those from `start` to before `stop`."""
        self._samples, self._range = samples, range(start, stop)
        self._shapes = list_shapes(samples, start)

    def __getitem__(self, name: str) -> Array:
        """Joins the array of one input."""
        if name not in self._shapes:
            raise KeyError(name)
        first, *others = (read_array(self._samples, index, name) for index in self._range)
        return np.concatenate([first, *others]) if others else first

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the inputs."""
        return iter(self._shapes)

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self._shapes)

    @property
    def entries(self) -> int:
        """The number of entries of all arrays."""
        return sum(count_entries(self._samples, index) for index in self._range)


def make_batches(samples: Sequence[Sample], inputs: Sequence[Input], part: str, size: int) -> list[Batch]:
    """Joins consecutive samples into batches of a calibration part, as `join_samples` does, of which none is read yet.

    Args:
        samples: The samples.
        inputs: The inputs of the model.
        part: What the batches are for: `fit` or `choice`.
        size: The most samples in a batch.
    """
    return [Batch(part, feeds) for feeds in list_feeds(samples, inputs, size)]


def list_feeds(samples: Sequence[Sample], inputs: Sequence[Input], size: int) -> list[BatchFeeds]:
    """Lists the feeds of the batches that `join_samples` makes; their arrays are read when they are asked for."""
    return [BatchFeeds(samples, start, stop) for start, stop in _group_samples(samples, inputs, size)]


class JoinedBatches(Sequence[tuple[Feeds, Array | None]]):
    """The batches that `join_samples` makes, of which feeds and labels are read when they are asked for."""

    def __init__(self, samples: Sequence[Sample], inputs: Sequence[Input], size: int) -> None:
        """Divides the samples into batches of at most `size`."""
        self._samples = samples
        self._ranges = list(_group_samples(samples, inputs, size))
        self._feeds = [BatchFeeds(samples, *one) for one in self._ranges]

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._feeds)

    @overload
    def __getitem__(self, index: int) -> tuple[Feeds, Array | None]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Feeds, Array | None]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The feeds of a batch, always the same object, and its labels."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._feeds[index], _join_labels([self._samples[place] for place in range(*self._ranges[index])])


def join_samples(
    samples: Sequence[Sample], inputs: Sequence[Input], size: int
) -> Iterator[tuple[dict[str, Array], Array | None]]:
    """Joins consecutive samples of equal shape along the first axis, where the model leaves that axis dynamic.

    Args:
        samples: The samples.
        inputs: The inputs of the model.
        size: The most samples in a batch.

    Yields:
        The feeds of a batch by input name, and its labels; None unless every sample of the batch has labels.
    """
    for start, stop in _group_samples(samples, inputs, size):
        group = [samples[index] for index in range(start, stop)]
        feeds = dict(group[0].feeds)  # scalars, and what all samples share, cannot be joined and never need to be
        if len(group) > 1:
            feeds = {name: np.concatenate([sample.feeds[name] for sample in group]) for name in feeds}
        yield feeds, _join_labels(group)


def _join_labels(group: Sequence[Sample]) -> Array | None:
    labels = [sample.labels for sample in group if sample.labels is not None]
    return np.concatenate(labels) if len(labels) == len(group) else None


def _group_samples(samples: Sequence[Sample], inputs: Sequence[Input], size: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges of samples that are joined."""
    size = size if can_join(inputs) else 1
    start = 0
    while start < len(samples):
        first = list_shapes(samples, start)
        others = itertools.takewhile(
            lambda index, first=first: _can_be_joined(first, list_shapes(samples, index)),  # type: ignore[misc]
            range(start + 1, min(len(samples), start + size)),
        )
        stop = start + 1 + sum(1 for _ in others)
        yield start, stop
        start = stop


def choose_batch_size(samples: Sequence[Sample]) -> int:
    """Chooses the number of samples in one call of the model: at most 32, fewer where inputs are large."""
    values = max(count_entries(samples, index) for index in range(len(samples)))
    return max(1, min(BATCH, BATCH_VALUES // max(1, values)))


def _can_be_joined(left: Mapping[str, tuple[int, ...]], right: Mapping[str, tuple[int, ...]]) -> bool:
    return all(left[name][1:] == right[name][1:] for name in left)
