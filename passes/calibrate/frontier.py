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
    """Keeps the values of every batch in memory."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        """Starts both streams with the feeds, and lets them share the arrays."""
        self._values = [(dict(feed), dict(feed)) for feed in feeds]

    def take(self, batch: int) -> tuple[StreamValues, StreamValues]:
        """See `Frontier`."""
        return self._values[batch]

    def put(self, batch: int, dense: StreamValues, pruned: StreamValues) -> None:
        """See `Frontier`."""
        self._values[batch] = dense, pruned


class OnDisk:
    """Keeps the values of each batch in a file of its own."""

    def __init__(self, feeds: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Starts both streams with the feeds, which are written to `folder`; it must exist."""
        self._folder = folder
        for batch, feed in enumerate(feeds):
            self.put(batch, dict(feed), dict(feed))

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
