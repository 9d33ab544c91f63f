"""Arrays in `.npz` and `.npy` files, which are read only where they hold what they say and fit in memory."""

import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from prox24_export.errors import InputError
from prox24_export.input_files import MB, expect_file
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.refine.memory import find_available_memory

Header = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of an array

WANTED = "a NumPy .npz or .npy file"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
ROW = 512  # bytes that Python takes for a row beside its values
EXPANDED, SMALL = 1000, 64 * MB  # how many times its bytes a file may take in memory, and what any file may take
SHARE = 2  # samples may take a half of what is free: the rest is for what is computed from them


def read_arrays(path: Path, option: str) -> dict[str, Array]:
    """Reads all arrays of a file.

    Args:
        path: The file; what it holds counts, not its name.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        The arrays of an `.npz` by name; the one of an `.npy` by the name of the file.

    Raises:
        InputError: It is no regular file, is torn, holds Python objects, takes more memory than is free, or is
            compressed beyond what samples can be.
    """
    size = expect_file(path, option, WANTED).st_size
    with _say_what_cannot_be_read(path, option), path.open("rb") as file:
        is_zip = _is_archive(file)
        headers = _read_headers(file) if is_zip else [(path.name, _read_header(file, size))]
        needed = sum(_count(shape, dtype.itemsize) for _, (shape, dtype) in headers)
        expect_room(needed, f"{option} {path}")
        _expect_true_size(needed, size, f"{option} {path}")
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        return {name: loaded[name] for name in loaded.files} if is_zip else {path.name: loaded}


def outline_arrays(path: Path, option: str) -> dict[str, Array]:
    """Reads the names, shapes and dtypes of the arrays of a file, and no values.

    Args:
        path: The file, as for `read_arrays`.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        For each array zeros of its shape and dtype, which take no memory.

    Raises:
        InputError: It is no regular file, is torn, or holds Python objects.
    """
    size = expect_file(path, option, WANTED).st_size
    with _say_what_cannot_be_read(path, option), path.open("rb") as file:
        headers = _read_headers(file) if _is_archive(file) else [(path.name, _read_header(file, size))]
        return {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (shape, dtype) in headers}


@contextmanager
def _say_what_cannot_be_read(path: Path, option: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers are parsed as Python, whose parser warns and quotes them
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{option} {path} cannot be read: {error}. Expected {WANTED}.") from error


def _is_archive(file: IO[bytes]) -> bool:
    """Whether a file begins as an `.npz` does; it stands at its beginning again then."""
    is_zip = file.read(4) in ZIP
    file.seek(0)
    return is_zip


def expect_room(needed: int, where: str, remedy: str = "Give fewer samples.") -> None:
    """Expects that `needed` bytes are free.

    Args:
        needed: The number of bytes.
        where: What takes them, for messages.
        remedy: What to do where they are not free, for messages.

    Raises:
        InputError: They are not.
    """
    free = find_free()
    if needed > free:
        raise InputError(f"{where} takes {needed / MB:,.0f} MB of memory, and {free / MB:,.0f} MB are free. {remedy}")


def _expect_true_size(needed: int, size: int, where: str) -> None:
    """Expects a file that takes no more memory than samples of its size can: a few bytes can stand for many zeros."""
    if needed > max(SMALL, EXPANDED * size):
        raise InputError(
            f"{where} holds {size:,} bytes, and its arrays would take {needed / MB:,.0f} MB. Expected samples, which "
            f"take at most {EXPANDED:,} times as much; repeated values can be left out."
        )


def find_free() -> int:
    """Finds how many bytes of memory are free."""
    return find_available_memory(torch.device("cpu"))


def count_bytes(arrays: Mapping[str, Array]) -> int:
    """Counts the bytes that arrays take together with the rows that they divide into."""
    return sum(_count(array.shape, array.itemsize) for array in arrays.values())


def _count(shape: tuple[int, ...], itemsize: int) -> int:
    return math.prod(shape) * itemsize + ROW * (shape[0] if shape else 1)


def _read_headers(file: IO[bytes]) -> list[tuple[str, Header]]:
    """Reads the name, shape and dtype of every array of an archive."""
    with zipfile.ZipFile(file) as archive:
        headers = []
        for entry in archive.infolist():
            with archive.open(entry) as content:
                headers.append((entry.filename.removesuffix(".npy"), _read_header(content, entry.file_size)))
        return headers


def _read_header(content: IO[bytes], size: int) -> Header:
    """Reads the shape and dtype of an array of `size` bytes.

    Raises:
        ValueError: It is no array, holds Python objects, or says that it is larger than its bytes.
    """
    version = np.lib.format.read_magic(content)
    readers: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is not read")
    shape, _, dtype = readers[version](content)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which can run any code when they are read")
    entry = max(1, dtype.itemsize)  # entries of no bytes could be any number
    if min(shape, default=0) < 0 or math.prod(shape) * entry > size - content.tell():
        raise ValueError(f"an array of {dtype} {list(shape)} is larger than the bytes that are there")
    return shape, dtype
