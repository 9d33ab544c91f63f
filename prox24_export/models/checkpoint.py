"""The safetensors files of a directory, whose tensors are read one by one and replaced in a copy."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.models.strict_json import parse_json
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.experts import split_part_name

ENDING = "*.safetensors"
INDEX = "model.safetensors.index.json"
WANTED = "a safetensors file"
LONGEST = 100 * MB  # of a header, as the format says, and of an index
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
OTHER_TYPES = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}
"""Types that no weight is pruned in; transformers may convert them."""


@dataclass(frozen=True)
class Place:
    """Where a tensor is stored.

    Attributes:
        file: The safetensors file.
        dtype: The tensor's type.
        shape: The tensor's shape.
        begin: The offset of its first byte in the file.
        end: The offset behind its last byte.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Checkpoint:
    """All tensors of the safetensors files in a folder, left on disk until they are read.

    A safetensors file is eight bytes with the size of a JSON header, the header, and the tensors' bytes.

    Attributes:
        folder: The folder that holds the files.
    """

    folder: Path

    @cached_property
    def places(self) -> dict[str, Place]:
        """The place of each tensor, by name.

        Raises:
            InputError: A file is cut short or torn, holds a type that is not known here, or a tensor of another file.
        """
        found: dict[str, Place] = {}
        for file in self.files:
            for name, place in _read_header(file).items():
                if name in found:
                    raise InputError(
                        f"{file} and {found[name].file.name} both hold the tensor {name}. Expected it in one file: "
                        "save the model again with save_pretrained."
                    )
                found[name] = place
        return found

    @cached_property
    def files(self) -> list[Path]:
        """The files that transformers reads: `model.safetensors`, or those that the index names.

        Others may lie beside them; all count where there is neither.

        Raises:
            InputError: The index cannot be read.
        """
        single, index = self.folder / "model.safetensors", self.folder / INDEX
        if single.is_file():
            return [single]
        if not index.is_file():
            return sorted(self.folder.glob(ENDING))
        wanted = "an index of the safetensors files, as save_pretrained writes it"
        expect_file(index, "index", wanted, most=LONGEST)
        try:
            named = set(parse_json(index.read_bytes())["weight_map"].values())
            outside = [name for name in named if not name.endswith(ENDING[1:]) or Path(name).name != name]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} cannot be read: {first_line(error)}. Expected {wanted}.") from error
        if outside:
            raise InputError(f"{index} names the file {outside[0]!r:.80}, which is not beside it. Expected {wanted}.")
        return sorted(self.folder / name for name in named)

    def read(self, name: str) -> Tensor:
        """Reads one tensor into memory of its own."""
        place = self.places[name]
        if place.begin == place.end:
            return torch.empty(place.shape, dtype=place.dtype)
        data = np.fromfile(place.file, np.uint8, place.end - place.begin, offset=place.begin)
        return torch.from_numpy(data).view(place.dtype).reshape(place.shape)

    def write(self, folder: Path, weights: Mapping[str, Array]) -> None:
        """Copies the files to `folder` and replaces tensors there; one tensor is in memory at a time.

        Args:
            folder: The existing folder to write to.
            weights: The new tensors by name, in the stored shape and dtype; `name[i]` is the i-th entry along the first
                axis of a tensor.

        Raises:
            OSError: The folder cannot be written.
        """
        for file in self.files:
            shutil.copyfile(file, folder / file.name)
        for name in weights:
            whole, index = split_part_name(name, self.places)
            place = self.places[whole]
            data = np.ascontiguousarray(weights[name]).tobytes()
            with (folder / place.file.name).open("r+b") as target:
                target.seek(place.begin + (index or 0) * len(data))
                target.write(data)


def _read_header(file: Path) -> dict[str, Place]:
    size = expect_file(file, "checkpoint", WANTED).st_size
    try:
        return _read_places(file, size)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}. Expected {WANTED}.") from error


def _read_places(file: Path, size: int) -> dict[str, Place]:
    """Reads the header of a file of `size` bytes, which must say of every byte behind it to which tensor it belongs."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > min(LONGEST, size - 8):
            raise ValueError(f"its header would take {length:,} bytes")
        header = parse_json(content.read(length))
    if not isinstance(header, dict):
        raise TypeError(f"its header is a {type(header).__name__}")
    header.pop("__metadata__", None)
    places = {name: _read_place(file, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.end > size:
            raise ValueError(f"the file ends within {name}")
        if place.begin != end:
            raise ValueError(f"{name} begins at byte {place.begin}, and what stands before it ends at {end}")
        end = place.end
    if end != size:
        raise ValueError(f"{size - end:,} bytes at its end belong to no tensor")
    return places


def _read_place(file: Path, name: str, entry: Any, start: int) -> Place:
    """Reads where a tensor is stored; `start` is the offset behind the header.

    Raises:
        ValueError: The entry is not what the format says.
    """

    def refuse(found: str) -> NoReturn:
        raise ValueError(f"{name} {found}")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        refuse("has no dtype, shape and data_offsets")
    dtype, shape, offsets = (TYPES | OTHER_TYPES).get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        refuse(f"has the dtype {str(entry['dtype'])!r:.20}, which is not known here")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):  # noqa: PLR2004 - begin and end
        refuse(f"has the shape {shape!r:.60} and the offsets {offsets!r:.60}")
    taken = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != taken:
        refuse(f"takes {taken} bytes, and has {offsets[1] - offsets[0]}")
    return Place(file, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_sizes(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
