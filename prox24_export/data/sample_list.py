"""Lists of samples, of which each is read when it is asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from prox24_export.data.sample_groups import SampleGroup
from prox24_export.passes.graph.arrays import Array


@dataclass(frozen=True)
class Sample:
    """The smallest piece that the data divide into: one item, or as many items as a fixed batch axis wants.

    Attributes:
        feeds: The arrays by input name, in the dtypes that the model takes.
        labels: The true classes of the sample, or the reference of an output; None where they are not known.
        place: The place of the sample in its source, for messages.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None
    place: int = 0


class SampleList(Sequence[Sample]):
    """Samples of which each is read when it is asked for.

    A list of them, or a part of one, takes a few bytes for each sample, wherever their arrays are.
    """

    def __init__(self, groups: Sequence[SampleGroup], places: Sequence[int] | Array | None = None) -> None:
        """Lists samples of groups.

        Args:
            groups: The groups, one after the other.
            places: The places of the samples among all of the groups; None for all of them in order.
        """
        self._groups = groups
        self._starts = np.cumsum([0, *(group.count for group in groups)])
        self._places = np.arange(self._starts[-1]) if places is None else np.asarray(places, np.int64)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "SampleList": ...
    def __getitem__(self, index: int | slice) -> "Sample | SampleList":
        """Reads one sample, or lists those of a slice."""
        if isinstance(index, slice):
            return SampleList(self._groups, self._places[index])
        group, row, place = self._find(index)
        feeds = {name: column.read(row) for name, column in group.columns.items()}
        return Sample(feeds, None if group.labels is None else group.labels.read(row), place)

    def select(self, indices: Sequence[int] | Array) -> "SampleList":
        """Lists the samples with these indices, in their order."""
        return SampleList(self._groups, self._places[np.asarray(indices, np.int64)])

    def list_shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Lists the shapes of a sample's arrays by input name, and reads nothing."""
        group, _, _ = self._find(index)
        return {name: column.sample_shape for name, column in group.columns.items()}

    @property
    def places(self) -> list[int]:
        """The place of each sample among all that the groups hold."""
        return [int(place) for place in self._places]

    def read_array(self, index: int, name: str) -> Array:
        """Reads the array of one input of a sample."""
        group, row, _ = self._find(index)
        return group.columns[name].read(row)

    def _find(self, index: int) -> tuple[SampleGroup, int, int]:
        """Finds the group of a sample, its row there, and its place among all."""
        place = int(self._places[index])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._groups[number], place - int(self._starts[number]), place


def select_samples(samples: Sequence[Sample], indices: Sequence[int] | Array) -> Sequence[Sample]:
    """Selects the samples with these indices, in their order, and reads none that is not read yet."""
    return samples.select(indices) if isinstance(samples, SampleList) else [samples[index] for index in indices]


def count_entries(samples: Sequence[Sample], index: int) -> int:
    """Counts the entries of all arrays of a sample."""
    return sum(map(math.prod, list_shapes(samples, index).values()))


def list_shapes(samples: Sequence[Sample], index: int) -> dict[str, tuple[int, ...]]:
    """Lists the shapes of a sample's arrays by input name."""
    if isinstance(samples, SampleList):
        return samples.list_shapes(index)
    return {name: array.shape for name, array in samples[index].feeds.items()}


def list_places(samples: Sequence[Sample]) -> Sequence[int]:
    """Lists the place of each sample in its source."""
    return samples.places if isinstance(samples, SampleList) else [sample.place for sample in samples]


def read_array(samples: Sequence[Sample], index: int, name: str) -> Array:
    """Reads the array of one input of a sample, and no other."""
    return samples.read_array(index, name) if isinstance(samples, SampleList) else samples[index].feeds[name]
