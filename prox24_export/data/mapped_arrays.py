"""Arrays that stay in their file: it is mapped into memory, and what is read of them is copied piece by piece."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prox24_export.data.lazy_rows import LazyRows
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array

MAPPED_AT_ONCE = 64  # files: each mapping holds one of the few descriptors that a process may have


class MappedState(NamedTuple):
    """What the system says of a file; it differs where the file was changed."""

    inode: int
    size: int
    changed: int


@dataclass(frozen=True, eq=False)
class MappedArray(LazyRows):
    """An array of one or more axes in a file, whose bytes lie there as they do in memory.

    Attributes:
        path: The file.
        state: The file as it was when it was opened.
        offset: The place of the first byte of the array.
        shape: Its shape.
        dtype: Its dtype, without Python objects.
        is_fortran: Whether its first index varies fastest.
    """

    path: Path
    state: MappedState
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool = False

    def __getitem__(self, rows: slice) -> Array:
        """Copies rows into an array of their own.

        Raises:
            InputError: The file was changed, or cannot be read any more.
        """
        try:
            if read_state(self.path) != self.state:
                raise InputError(f"{self.path} was changed while samples were read from it. Run the command again.")
            bytes_of_file = _map_file(self.path, self.state)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read any more: {error.strerror}. Run the command again."
            ) from error
        order: Any = "F" if self.is_fortran else "C"
        view: Array = np.ndarray(self.shape, self.dtype, bytes_of_file, self.offset, order=order)  # often not aligned
        return np.array(view[rows], order="C")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Copies the whole array into memory, as NumPy asks for it."""
        return self[:] if dtype is None else self[:].astype(dtype)


def read_state(path: Path) -> MappedState:
    """Reads the state of a file.

    Raises:
        OSError: There is no such file.
    """
    found = path.stat()
    return MappedState(found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=MAPPED_AT_ONCE)
def _map_file(path: Path, state: MappedState) -> Array:
    """Maps a file as it was in a state; pages that are read belong to the system's cache, and not to the process."""
    del state  # part of the key: a changed file is mapped anew
    return np.memmap(path, np.uint8, mode="r")
