"""The values that the streams carry from stage to stage, batch by batch: in memory or on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

StreamValues = dict[str, Any]


class Frontier(Protocol):
    """Values of the dense and the pruned stream by batch. A value that both streams share stays one object."""

    def take(self, batch: int) -> tuple[StreamValues, StreamValues]:
        """The values that were put last for a batch: (dense, pruned)."""

    def put(self, batch: int, dense: StreamValues, pruned: StreamValues) -> None:
        """Replaces the values of a batch.

        Raises:
            OSError: The values cannot be written.
        """


class InMemory:
    """Keeps the values of every batch in memory, but for feeds: these are read again where they are wanted again."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        """Starts both streams with the feeds, and lets them share the arrays."""
        self._feeds = feeds
        self._fed = [tuple(feed) for feed in feeds]  # names of the feeds that are carried
        self._values: list[tuple[StreamValues, StreamValues]] = [({}, {}) for _ in feeds]

    def take(self, batch: int) -> tuple[StreamValues, StreamValues]:
        """See `Frontier`."""
        shared = {name: self._feeds[batch][name] for name in self._fed[batch]}
        dense, pruned = self._values[batch]
        return shared | dense, shared | pruned

    def put(self, batch: int, dense: StreamValues, pruned: StreamValues) -> None:
        """See `Frontier`."""
        feeds = self._feeds[batch]
        self._fed[batch] = tuple(name for name in pruned if name in feeds)
        computed = [{name: value for name, value in one.items() if name not in feeds} for one in (dense, pruned)]
        self._values[batch] = computed[0], computed[1]


class OnDisk:
    """Keeps the values of each batch in a file of its own."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Starts both streams with the feeds, which are written to `folder`; it must exist."""
        self._folder = folder
        for batch, feed in enumerate(feeds):
            shared = dict(feed)
            self.put(batch, shared, dict(shared))

    def take(self, batch: int) -> tuple[StreamValues, StreamValues]:
        """See `Frontier`."""
        values: tuple[StreamValues, StreamValues] = torch.load(
            self._file(batch), weights_only=False
        )  # written by this process
        return values

    def put(self, batch: int, dense: StreamValues, pruned: StreamValues) -> None:
        """See `Frontier`."""
        torch.save((dense, pruned), self._file(batch))

    def _file(self, batch: int) -> Path:
        return self._folder / f"frontier-{batch}.pt"
