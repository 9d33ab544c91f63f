"""The values that the streams carry from stage to stage, batch by batch: in memory as far as they fit, else on disk."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prox24_export.passes.graph.on_device import move_to

StreamValues = dict[str, Any]
BOTH, DENSE, PRUNED = "both", "dense", "pruned"
ValueKey = tuple[
    str, str
]  # name of a value, and the stream that it belongs to; it is computed once and then stays as it is


@dataclass(frozen=True)
class Spill:
    """Where values go that do not fit.

    Attributes:
        folder: The folder; it must exist.
        limit: The most bytes that values take in memory.
        limit_on_device: The most that they take in the memory of a GPU, where the streams run on one; others come to
            the host's.
    """

    folder: Path
    limit: float = 0.0
    limit_on_device: float = math.inf


class Frontier:
    """Values of the dense and the pruned stream by batch. A value that both streams share stays one object.

    Feeds are not kept: they are read again where they are wanted again.
    """

    def __init__(
        self,
        read_feeds: Callable[[int], Mapping[str, Any]],
        spill: Spill | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Starts both streams with the feeds, and lets them share the arrays.

        Args:
            read_feeds: The feeds of a batch by its number; arrays are read when they are asked for.
            spill: Where values go that do not fit in memory; None keeps all of them there.
            device: Where values are when they are taken; None leaves them as they were put.
        """
        self._read_feeds, self._spill, self._device = read_feeds, spill, device
        self._values: dict[int, dict[ValueKey, Any]] = {}
        self._fed: dict[int, list[str]] = {}  # names of the feeds that are still carried
        self._held, self._held_on_device, self._files = 0, 0, 0

    def take(self, batch: int) -> tuple[StreamValues, StreamValues]:
        """The values that were put last for a batch, or its feeds: (dense, pruned).

        Raises:
            OSError: What is on disk cannot be read.
        """
        feeds = self._read_feeds(batch)
        dense: StreamValues = {name: feeds[name] for name in self._fed.get(batch, feeds)}
        pruned = dict(dense)
        for (name, stream), entry in self._values.get(batch, {}).items():
            value = move_to(_read(entry) if isinstance(entry, Path) else entry, self._device)
            for where, values in ((DENSE, dense), (PRUNED, pruned)):
                if stream in {where, BOTH}:
                    values[name] = value
        return dense, pruned

    def put(self, batch: int, dense: StreamValues, pruned: StreamValues) -> None:
        """Replaces the values of a batch. What was put before under the same name is kept, and not written again.

        Raises:
            OSError: The values cannot be written.
        """
        feeds, known = self._read_feeds(batch), self._values.get(batch, {})
        self._fed[batch] = [name for name in pruned if name in feeds]
        wanted = {
            _key(name, dense, pruned, stream): value
            for stream, values in ((DENSE, dense), (PRUNED, pruned))
            for name, value in values.items()
            if name not in feeds
        }
        for key, entry in known.items():
            if key not in wanted:
                self._forget(entry)
        self._values[batch] = {key: known[key] if key in known else self._keep(value) for key, value in wanted.items()}

    def _keep(self, value: Any) -> Any:
        """The value itself where there is room for it, else the file that it is written to."""
        size = _size(value)
        if _is_on_gpu(value):
            if self._spill is None or self._held_on_device + size <= self._spill.limit_on_device:
                self._held_on_device += size
                return value
            value = value.cpu()
        if self._spill is None or self._held + size <= self._spill.limit:
            self._held += size
            return value
        file, self._files = self._spill.folder / f"frontier-{self._files}.pt", self._files + 1
        torch.save(value, file)
        return file

    def _forget(self, entry: Any) -> None:
        if isinstance(entry, Path):
            entry.unlink()
        elif _is_on_gpu(entry):
            self._held_on_device -= _size(entry)
        else:
            self._held -= _size(entry)


def _key(name: str, dense: StreamValues, pruned: StreamValues, stream: str) -> ValueKey:
    shared = name in dense and name in pruned and dense[name] is pruned[name]
    return name, BOTH if shared else stream


def _read(file: Path) -> Any:
    return torch.load(file, weights_only=False)  # written by this process


def _is_on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _size(value: Any) -> int:
    return int(getattr(value, "nbytes", 0))
