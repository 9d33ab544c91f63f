"""What a `.pt2` file must be before torch reads it: an archive that can neither run code nor take memory without end.

Everything is read with torch's own reader of archives, so that what is checked is what torch sees. What is not known to
be harmless is refused.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch._export.serde import schema
from torch._export.serde.serialize import deserialize_scalar_type
from torch.export.pt2_archive import PT2ArchiveReader

from prox24_export.errors import InputError, first_line
from prox24_export.models.program_samples import EXPANDED, UnknownSampleError, expect_plain_samples, measure
from prox24_export.models.program_schema import UnknownEntryError, expect_known
from prox24_export.models.program_targets import find_modules
from prox24_export.models.strict_json import parse_json

PROGRAM, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
ENTRIES = re.compile(
    rf"{re.escape(PROGRAM)}|{re.escape(SAMPLES)}|"
    r"data/weights/(weight_\d+|\w+\.json)|data/constants/(tensor_\d+|\w+\.json)|"
    r"archive_format|archive_version|byteorder|\.data/\w+|\.\w+|extra/[\w./ -]+",
    re.ASCII,
)
PAYLOADS = re.compile(r"(data/(?:weights|constants)/)\w+\.json", re.ASCII)
LONGEST = 1 << 28  # bytes of JSON
AGAIN = "Save the program with torch.export.save of torch 2.9 or later"


def expect_harmless(path: Path) -> frozenset[str]:
    """Expects an archive of one program, of tensors and known operators alone.

    Args:
        path: A regular file.

    Returns:
        The modules that must be imported before torch knows all containers of the program.

    Raises:
        InputError: The file is no such archive, or an entry is none that torch writes, or holds what could run code or
            is larger than the file.
    """
    try:
        reader = PT2ArchiveReader(str(path))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"{path} is no exported program: {first_line(error).rstrip('.')}. {AGAIN}.") from error
    _expect_entries(path, reader)
    program = _expect_objects(path, reader, PROGRAM, schema.ExportedProgram)
    for name in reader.get_file_names():
        folder = PAYLOADS.fullmatch(name)
        if folder is not None:
            config = _expect_objects(path, reader, name, schema.PayloadConfig)
            for tensor, payload in config.get("config", {}).items():
                _expect_payload(path, reader, folder[1], tensor, payload)
    _expect_samples(path, reader)
    return find_modules(json.dumps(program.get("graph_module", {}).get("module_call_graph")))


def _expect_entries(path: Path, reader: PT2ArchiveReader) -> None:
    names = reader.get_file_names()
    for name in names:
        if not ENTRIES.fullmatch(name) or ".." in name.split("/"):
            raise _refuse(
                path,
                name,
                "is none that is read: what is no tensor can run any code",
                f"{AGAIN}, without custom objects and compiled code",
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _refuse(path, twice, "is there twice, and readers may take either", AGAIN)
    stored = path.stat().st_size
    total = 0
    for name in names:
        total += measure(reader.archive_file, name)
        if total > stored:
            raise _refuse(path, name, "is compressed or overlaps another", AGAIN)
    missing = {PROGRAM, SAMPLES} - set(names)
    if missing:
        raise _refuse(path, min(missing), "is missing", AGAIN)


def _expect_objects(path: Path, reader: PT2ArchiveReader, name: str, kind: type) -> Any:
    """Reads an entry of JSON and checks it against the schema."""
    if measure(reader.archive_file, name) > LONGEST:
        raise _refuse(path, name, f"is longer than {LONGEST >> 20} MB", "Save the program without stack traces")
    try:
        value = parse_json(reader.read_bytes(name))
        expect_known(kind, value)
    except UnknownEntryError as error:
        raise _refuse(
            path, name, f"is not known to be harmless: {error}", "Export without it, or export to ONNX"
        ) from error
    except ValueError as error:
        raise _refuse(path, name, f"is no JSON of a program: {error}", AGAIN) from error
    return value


def _expect_payload(path: Path, reader: PT2ArchiveReader, folder: str, tensor: str, payload: Mapping[str, Any]) -> None:
    """Expects a tensor whose bytes are there, and that is not pickled."""
    meta, name = payload.get("tensor_meta"), folder + str(payload.get("path_name"))
    if payload.get("use_pickle") is not False or meta is None:
        raise _refuse(path, name, f"holds {tensor} as a pickle, which can run any code", "Save plain tensors")
    if name not in reader.get_file_names():
        raise _refuse(path, name, f"with the bytes of {tensor} is missing", AGAIN)
    try:
        size = math.prod(_read_sizes(meta["sizes"])) * deserialize_scalar_type(meta["dtype"]).itemsize
        whole = _read_sizes([*meta["strides"], meta["storage_offset"]])
    except KeyError as error:
        raise _refuse(path, name, f"has no type, sizes and strides that are known for {tensor}", AGAIN) from error
    stored = measure(reader.archive_file, name)
    if size > (stored + EXPANDED if stored else 0) or min(whole) < 0:
        raise _refuse(path, name, f"holds {stored} bytes, and {tensor} takes {size}", AGAIN)


def _read_sizes(sizes: list[dict[str, int]]) -> list[int]:
    return [size["as_int"] for size in sizes]


def _expect_samples(path: Path, reader: PT2ArchiveReader) -> None:
    """Expects example inputs that are plain, where there are any."""
    content = reader.read_bytes(SAMPLES)
    try:
        if content:
            expect_plain_samples(content)
    except UnknownSampleError as error:
        raise _refuse(path, SAMPLES, str(error), "Export with tensors and numbers as inputs") from error


def _refuse(path: Path, name: str, found: str, remedy: str) -> InputError:
    return InputError(f"{path} cannot be read safely: its entry {name:.100} {found}. {remedy}.")
