"""The safetensors files of a directory, whose tensors are read one by one and replaced in a copy."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prox24_export.errors import InputError, first_line
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.experts import split_part_name

ENDING = "*.safetensors"
INDEX = "model.safetensors.index.json"
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
            InputError: A file is cut short, or holds a type that is not known here.
        """
        return {name: place for file in self.files for name, place in _read_header(file).items()}

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
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return sorted(self.folder / name for name in set(named))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{index} cannot be read: {first_line(error)}. Expected an index of the safetensors files, as "
                "save_pretrained writes it."
            ) from error

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
    try:
        return _read_places(file)
    except (ValueError, KeyError, TypeError, OSError, MemoryError, OverflowError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}. Expected a safetensors file.") from error


def _read_places(file: Path) -> dict[str, Place]:
    with file.open("rb") as content:
        start = 8 + int.from_bytes(content.read(8), "little")
        header: dict[str, Any] = json.loads(content.read(start - 8))
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        place = Place(file, TYPES[entry["dtype"]], tuple(entry["shape"]), begin, end)
        if end - begin != math.prod(place.shape) * place.dtype.itemsize or end > file.stat().st_size:
            raise ValueError(f"the file ends within {name}")
        places[name] = place
    return places
