"""Arrays in `.npz` and `.npy` files, which are mapped or read only where they hold what they say.

What is stored plainly stays in its file. What is compressed has to be read whole, and has to fit in memory.
"""

import math
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from prox24_export.data.mapped_arrays import MappedArray, read_state
from prox24_export.errors import InputError
from prox24_export.facts.free_memory import find_free_host_memory
from prox24_export.input_files import MB, expect_file
from prox24_export.passes.graph.arrays import Array

WANTED = "a NumPy .npz or .npy file"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
ROW = 512  # bytes that Python may take for a row beside its values
PLACE = 16  # bytes that are held of each row of a file: where it is
LOCAL_HEADER = struct.Struct("<26xHH")  # of an archive's entry: the lengths of the name and of what else follows it
READ_AT_ONCE = 1 << 20  # bytes
EXPANDED, SMALL = 1000, 64 * MB  # how many times its bytes a file may take in memory, and what any file may take
SHARE = 2  # samples may take a half of what is free: the rest is for what is computed from them


class _Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    length: int  # bytes of the header itself


def read_arrays(path: Path, option: str) -> dict[str, Array | MappedArray]:
    """Reads all arrays of a file; those that are stored plainly stay there, and take no memory.

    Args:
        path: The file; what it holds counts, not its name.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        The arrays of an `.npz` by name; the one of an `.npy` by the name of the file. They are in memory where they are
        compressed or have no axes.

    Raises:
        InputError: It is no regular file, is torn, holds Python objects, is compressed and takes more memory than is
            free, or is compressed beyond what samples can be.
    """
    size = expect_file(path, option, WANTED).st_size
    with _say_what_cannot_be_read(path, option), path.open("rb") as file:
        if not _is_archive(file):
            header = _read_header(file, size)
            _expect_room({path.name: header}, {}, size, f"{option} {path}")
            return {path.name: _take_array(path, header, header.length)}
        with zipfile.ZipFile(file) as archive:
            entries = {_name_entry(entry): entry for entry in archive.infolist()}
            headers = {name: _read_entry_header(archive, entry) for name, entry in entries.items()}
            plain = {name for name, entry in entries.items() if _is_plain(entry)}
            stored = {name: header for name, header in headers.items() if name in plain}
            packed = {name: header for name, header in headers.items() if name not in plain}
            _expect_room(stored, packed, size, f"{option} {path}")
            return {
                name: _take_array(path, header, _find_entry(file, archive, entries[name]) + header.length)
                if name in plain
                else _unpack(archive, entries[name])
                for name, header in headers.items()
            }


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
        return {name: np.broadcast_to(np.zeros((), header.dtype), header.shape) for name, header in headers}


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


def _take_array(path: Path, header: _Header, offset: int) -> Array | MappedArray:
    """Takes an array whose bytes begin at `offset`; one without axes, which is a single value, is read."""
    array = MappedArray(path, read_state(path), offset, header.shape or (1,), header.dtype, header.is_fortran)
    return array if header.shape else array[:].reshape(())


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Whether the bytes of an entry lie in the archive as they are."""
    return entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size


def _find_entry(file: IO[bytes], archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Finds the place of the first byte of an entry that is stored plainly.

    Raises:
        zipfile.BadZipFile: Its bytes are not those that were written.
    """
    with archive.open(entry) as content:  # compares the entry's own header and, at its end, the checksum
        while content.read(READ_AT_ONCE):
            pass
    file.seek(entry.header_offset)
    name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    return entry.header_offset + LOCAL_HEADER.size + int(name) + int(extra)


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as content:
        array: Array = np.lib.format.read_array(content, allow_pickle=False)
        return array


def _expect_room(stored: Mapping[str, _Header], packed: Mapping[str, _Header], size: int, where: str) -> None:
    """Expects that what is read of the arrays fits in memory, and that they can be samples of a file of this size."""
    headers = [*stored.values(), *packed.values()]
    remedy = "Give fewer samples."
    if packed:
        remedy = "It is compressed, and so has to be read whole: write it with numpy.savez, or give fewer samples."
    rows = PLACE * sum(header.shape[0] if header.shape else 1 for header in headers)
    values = sum(math.prod(header.shape) * header.dtype.itemsize for header in packed.values())
    expect_room(rows + values, where, remedy)
    _expect_true_size(sum(_count(header.shape, header.dtype.itemsize) for header in headers), size, where)


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
    return find_free_host_memory()


def count_bytes(arrays: Mapping[str, Array]) -> int:
    """Counts the bytes that arrays take together with the rows that they divide into."""
    return sum(_count(array.shape, array.itemsize) for array in arrays.values())


def _count(shape: tuple[int, ...], itemsize: int) -> int:
    return math.prod(shape) * itemsize + ROW * (shape[0] if shape else 1)


def _read_headers(file: IO[bytes]) -> list[tuple[str, _Header]]:
    """Reads the name and the header of every array of an archive."""
    with zipfile.ZipFile(file) as archive:
        return [(_name_entry(entry), _read_entry_header(archive, entry)) for entry in archive.infolist()]


def _name_entry(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _read_entry_header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    with archive.open(entry) as content:
        return _read_header(content, entry.file_size)


def _read_header(content: IO[bytes], size: int) -> _Header:
    """Reads the header of an array of `size` bytes.

    Raises:
        ValueError: It is no array, holds Python objects, or says that it is larger than its bytes.
    """
    version = np.lib.format.read_magic(content)
    readers: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format is not read")
    shape, is_fortran, dtype = readers[version](content)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which can run any code when they are read")
    entry = max(1, dtype.itemsize)  # entries of no bytes could be any number
    if min(shape, default=0) < 0 or math.prod(shape) * entry > size - content.tell():
        raise ValueError(f"an array of {dtype} {list(shape)} is larger than the bytes that are there")
    return _Header(shape, dtype, is_fortran, content.tell())
