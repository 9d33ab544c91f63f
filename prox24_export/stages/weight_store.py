"""Solved weights on disk: memory does not grow with the number of layers."""

import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.passes.graph.arrays import Array, map_file
from prox24_export.passes.graph.lazy_mapping import LazyMapping


def pick_weights(stores: Mapping[str, Mapping[str, Array]]) -> Mapping[str, Array]:
    """Picks weights out of several stores; nothing is read or copied before it is asked for.

    Args:
        stores: The store that each name is read from.
    """
    return LazyMapping(lambda name: stores[name][name], stores)


class WeightStore(MutableMapping[str, Array]):
    """Arrays by name, one file each, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Starts empty; `folder` must exist."""
        self._folder, self._files = Path(tempfile.mkdtemp(prefix="weights.", dir=folder)), 0
        self._known: dict[str, tuple[Path, np.dtype[Any], tuple[int, ...]]] = {}

    def __setitem__(self, name: str, array: Array) -> None:
        """Writes an array.

        Raises:
            OSError: The folder cannot be written.
        """
        file, self._files = self._folder / f"{self._files}.bin", self._files + 1
        file.write_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        earlier = self._known.get(name)
        self._known[name] = file, array.dtype, array.shape
        if earlier is not None:  # which stayed until the new one was whole
            earlier[0].unlink()

    def __getitem__(self, name: str) -> Array:
        """Maps an array into memory; what is written into it stays with it."""
        return map_file(*self._known[name])

    def __delitem__(self, name: str) -> None:
        """Forgets an array."""
        self._known.pop(name)[0].unlink()

    def __contains__(self, name: object) -> bool:
        """Whether there is such an array; reads none."""
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        """Names, in the order in which they were first set."""
        return iter(self._known)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._known)
