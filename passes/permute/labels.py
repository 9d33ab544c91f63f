"""Labels of channels: which entries of which axes move together, and what tells two channels apart.

Every entry along a stored tensor's axis begins with a label of its own. The operators join labels into classes, one for
each channel, and keep channels apart that they treat differently. What is left is exact: two channels may change
places where nothing in the graph tells them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Group:
    """Axes of a value along which its entries are labelled together.

    Attributes:
        axes: The axes, ascending.
        ids: Label of each entry, with one axis for each of `axes`.
    """

    axes: tuple[int, ...]
    ids: Ids

    def coordinates(self, axes: Sequence[int]) -> Ids:
        """The place of each label along some of the group's axes, as one number; in the shape of `ids`."""
        wanted = [size if axis in axes else 1 for axis, size in zip(self.axes, self.ids.shape, strict=True)]
        return np.broadcast_to(np.arange(np.prod(wanted), dtype=np.int64).reshape(wanted), self.ids.shape)


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the graph, as far as channels are concerned.

    Attributes:
        shape: Its shape.
        groups: The labelled axes. Two groups may share an axis only where both are kept apart along it.
        uniform: Axes along which all entries are known to be equal.
        origin: Where entries come from that have no label, for the user to read.
    """

    shape: tuple[int, ...]
    groups: tuple[Group, ...] = ()
    uniform: frozenset[int] = frozenset()
    origin: str = ""

    def is_plain(self, axis: int) -> bool:
        """Whether entries along an axis differ, and have no label."""
        labelled = any(axis in group.axes for group in self.groups)
        return self.shape[axis] > 1 and axis not in self.uniform and not labelled


@dataclass
class Classes:
    """What the labels have become.

    Attributes:
        of: Class of each label.
        colours: A number for each class. Two classes with different numbers are told apart by the graph.
        reasons: By class, the first sentence that kept it in its place.
    """

    of: Ids
    colours: npt.NDArray[np.uint64]
    reasons: dict[int, str]


@dataclass
class Labels:
    """All labels of a graph, and what its operators say about them."""

    _count: int = 0
    _joined: list[tuple[Ids, Ids]] = field(default_factory=list)
    _apart: list[tuple[Ids, Ids, str]] = field(default_factory=list)
    _seen: dict[int, Ids] = field(default_factory=dict)

    def allocate(self, count: int) -> Ids:
        """Makes new labels."""
        self._count += count
        return np.arange(self._count - count, self._count, dtype=np.int64)

    def join(self, left: Ids, right: Ids) -> None:
        """Lets the channels of two arrays of labels, of one shape, be the same, entry by entry."""
        if left is not right and not np.array_equal(left, right):
            self._joined.append((left.reshape(-1), right.reshape(-1)))

    def keep_apart(self, group: Group, axes: Sequence[int], why: str) -> None:
        """Lets no channel of a group change its place along some of its axes."""
        wanted = [axis for axis in group.axes if axis in axes]
        if wanted:
            self.tell_apart(group.ids, group.coordinates(wanted), why)

    def tell_apart(self, ids: Ids, marks: Ids, why: str) -> None:
        """Lets two channels change places only where they have the same marks; both arrays have one shape."""
        self._apart.append((ids.reshape(-1), marks.reshape(-1), why))

    def observe(self, value: Value) -> None:
        """Notes that channels occur in a value: those that do are told apart from those that do not."""
        for group in value.groups:
            self._seen.setdefault(id(group.ids), group.ids)

    def resolve(self) -> Classes:
        """Joins all labels into classes, and gives each class its number."""
        of = _find_components(self._count, self._joined)
        colours = np.zeros(self._count, np.uint64)
        for number, ids in enumerate(self._seen.values()):
            _add_occurrences(colours, of[ids.reshape(-1)], np.uint64(2 * number + 1))
        reasons: dict[int, str] = {}
        for number, (ids, marks, why) in enumerate(self._apart):
            roots = of[ids]
            np.add.at(colours, roots, mix(marks.astype(np.uint64), np.uint64(2 * number + 2)))
            found = np.unique(roots)
            if len(np.unique(marks)) >= len(found):  # no two of them have the same place
                for root in found.tolist():
                    reasons.setdefault(root, why)
        return Classes(of, colours, reasons)


def _find_components(count: int, joined: Sequence[tuple[Ids, Ids]]) -> Ids:
    """The smallest label of each label's class."""
    parent = np.arange(count, dtype=np.int64)
    if not joined:
        return parent
    left, right = (np.concatenate(side) for side in zip(*joined, strict=True))
    while True:
        a, b = parent[left], parent[right]
        differ = a != b
        if not differ.any():
            return parent
        low, high = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
        np.minimum.at(parent, high, low)
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter


def _add_occurrences(colours: npt.NDArray[np.uint64], roots: Ids, salt: np.uint64) -> None:
    """Adds to the number of each class how often it occurs in one value, and how far apart its entries lie."""
    order = np.argsort(roots, kind="stable")
    ordered = roots[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]]
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    distances = (order - first).astype(np.uint64)  # from the first entry of the class to each of its entries
    np.add.at(colours, ordered, mix(distances, salt))


def mix(numbers: npt.NDArray[np.uint64], salt: np.uint64) -> npt.NDArray[np.uint64]:
    """Spreads numbers over 64 bits (the finaliser of SplitMix64), differently for every salt."""
    with np.errstate(over="ignore"):
        x = (numbers + np.uint64(1)) * MIX + salt * np.uint64(0xD1342543DE82EF95)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
        return mixed
