"""The bytes of a file of samples: it is read for models of several inputs, divided and joined, as a run does it."""

import io
import struct
import tempfile
import warnings
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from fuzz.values import BytesMutation, pick_integer
from prox24_export.data import array_files, samples, text
from prox24_export.data.batches import choose_batch_size, join_samples
from prox24_export.data.first_batch import outline_first_batch
from prox24_export.data.sample_list import SampleList
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input

LONGEST = 1 << 16  # bytes of an input
FREE = 1 << 28  # bytes of memory that are said to be free, the same on every machine
FLOATS, TOKENS, DYNAMIC = np.dtype(np.float32), np.dtype(np.int64), "N"
MODELS = (
    (Input("x", FLOATS, (DYNAMIC, 8)),),
    (Input("x", np.dtype(np.float16), None),),
    (Input("ids", TOKENS, (DYNAMIC, "T")), Input("mask", FLOATS, ("M", "T", "T"))),
    (Input("x", np.dtype(np.uint8), (2, 3, None)), Input("scale", FLOATS, ())),
    (Input("labels", np.dtype(np.bool_), (None,)),),
)
"""The inputs of the models that the samples are read for."""
NAMES = ("x.npy", "ids.npy", "mask.npy", "scale.npy", "labels.npy", "x", "", "../x.npy", "\x1b[2J.npy", "x.npy/")
TYPES = ("<f4", "<f2", ">f8", "<f16", "<i8", "|u1", "|b1", "<c8", "|O", "<U3", "|S0", "|V0", "<M8[ns]", "<m8", "f4,i8")
HEADERS = (
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (2,)}",
    "{'descr': ('<f4', (2, 2)), 'fortran_order': False, 'shape': (1, 8)}",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': 8}",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (True, 8L)}",
    "{'descr': '\\\x1b', 'fortran_order': False, 'shape': (1, 8)}",
    "(" * 300,
    "[" + "-" * 3000 + "1]",
)


@cache
def _make_folder() -> Path:
    return Path(tempfile.mkdtemp())


class _Letters:
    """Stands for a tokenizer: a token is a character, and one special token stands at the beginning."""

    def __call__(self, words: str, *, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*([1] if add_special_tokens else []), *map(ord, words)]}

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def check(data: bytes) -> None:
    """Reads samples for every model, from the data as a file of arrays and as a text."""
    folder = _make_folder()
    arrays, words = folder / "samples.npz", folder / "samples.txt"
    errors = []
    with patch.object(array_files, "find_free", lambda: FREE), patch.object(text, "_load_tokenizer", _load_letters):
        arrays.write_bytes(data)
        for inputs in MODELS:
            try:
                outline_first_batch(arrays, "--calibration")
                _use(samples.read_samples(arrays, inputs, "--calibration"), inputs)
            except InputError as error:
                errors.append(error)
        words.write_bytes(data)
        ids = (Input("ids", TOKENS, (DYNAMIC, "T")),)
        _use(samples.read_samples(words, ids, "--calibration", _read_rows), ids)
    if errors:
        raise errors[0]


def _load_letters(_: Path) -> _Letters:
    return _Letters()


def _read_rows(words: Path | str, option: str) -> Any:
    return text.read_token_rows(Path(words), _make_folder(), 12, 5, option)


def _use(found: SampleList, inputs: tuple[Input, ...]) -> None:
    """Divides samples into parts and joins them into batches."""
    found = found[:100]
    parts = samples.split_samples(found, with_report=True, seed=0, limit=None)
    for part in (parts.fit, parts.choice, parts.report):
        if part:
            list(join_samples(part, inputs, choose_batch_size(part)))


def mutate(data: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    """Changes the arrays of an archive and the archive itself, or one array, or bytes."""
    if random.random() < 0.2:
        return mutate_bytes(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(entry.filename, archive.read(entry)[:LONGEST]) for entry in archive.infolist()[:20]]
    except Exception:  # noqa: BLE001 - no archive, or one that only the program may read
        if data.startswith(b"PK"):
            return mutate_bytes(data)
        changed = _change_array(data, random, mutate_bytes)
        return _pack([("x.npy", changed)], random) if random.random() < 0.2 else changed
    if len(entries) == 1 and random.random() < 0.1:
        return entries[0][1]
    for _ in range(random.choice((1, 1, 2))):
        _change_entries(entries, random, mutate_bytes)
    packed = _pack(entries, random)
    return _change_directory(packed, random) if random.random() < 0.2 else packed


def _change_entries(entries: list[tuple[str, bytes]], random: Random, mutate_bytes: BytesMutation) -> None:
    place = random.randrange(len(entries)) if entries else 0
    action = random.choice(("array", "array", "array", "name", "add", "remove"))
    if action == "array" and entries:
        name, content = entries[place]
        entries[place] = name, _change_array(content, random, mutate_bytes)
    elif action == "name" and entries:
        entries[place] = random.choice(NAMES), entries[place][1]
    elif action == "remove" and entries:
        del entries[place]
    else:
        content = random.choice(entries)[1] if entries else _make_array(random)
        entries.append((random.choice(NAMES), random.choice((content, _make_array(random)))))


def _make_array(random: Random) -> bytes:
    shape = tuple(random.choice((0, 1, 2, 3, 4, 8)) for _ in range(random.randrange(4)))
    file = io.BytesIO()
    kind = random.choice(("<f4", "<f4", "<f2", "<i8", "|u1", "|b1", "<f8"))
    values = np.random.default_rng(random.randrange(1 << 16)).integers(0, 9, shape).astype(kind)
    if values.dtype.kind == "f" and values.size and random.random() < 0.3:
        values.flat[0] = random.choice((np.nan, np.inf, -np.inf, 6e4))
    np.lib.format.write_array(file, np.asarray(values))
    return file.getvalue()


def _change_array(content: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    """Changes the header of an array, or the bytes behind it."""
    if random.random() < 0.2 or not content.startswith(b"\x93NUMPY"):
        return random.choice((mutate_bytes(content), _make_array(random)))
    version = content[6:7]
    wide = version != b"\x01"
    begin = 12 if wide else 10
    length = int.from_bytes(content[8:begin], "little")
    header, rest = content[begin : begin + length], content[begin + length :]
    action = random.choice(("shape", "type", "whole", "bytes", "rest", "version"))
    old = header.decode("latin-1")
    if action == "shape":
        sizes = [pick_integer(random) for _ in range(random.choice((0, 1, 1, 2, 2, 3, 70)))]
        old = f"{old.partition(chr(39) + 'shape')[0]}'shape': {tuple(sizes)}, }}"
    elif action == "type":
        old = f"{{'descr': {random.choice(TYPES)!r}, 'fortran_order': {old.partition('fortran_order')[2][3:]}"
    elif action == "whole":
        old = random.choice(HEADERS)
    elif action == "version":
        version = random.choice((b"\x01", b"\x02", b"\x03", b"\xff"))
    elif action == "rest":
        rest = mutate_bytes(rest)
    else:
        old = mutate_bytes(header).decode("latin-1")
    changed = old.encode("latin-1", "replace") + b"\n"
    size = struct.pack("<I", len(changed)) if version != b"\x01" else struct.pack("<H", len(changed) & 0xFFFF)
    return b"\x93NUMPY" + version + b"\0" + size + changed + rest


def _pack(entries: list[tuple[str, bytes]], random: Random) -> bytes:
    file = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # names that stand twice are wanted
        for name, content in entries:
            if name not in archive.NameToInfo or random.random() < 0.5:
                archive.writestr(zipfile.ZipInfo(name), content, random.choice(kinds))
    return file.getvalue()


def _change_directory(packed: bytes, random: Random) -> bytes:
    """Overwrites a field of a header of an archive, where sizes, places, methods and flags stand."""
    places = [place for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for place in _find_all(packed, mark)]
    if not places:
        return packed
    place = random.choice(places) + 4 + 2 * random.randrange(21)
    value = (pick_integer(random) & 0xFFFFFFFF).to_bytes(4, "little")[: random.choice((2, 4))]
    return packed[:place] + value + packed[place + len(value) :]


def _find_all(data: bytes, mark: bytes) -> list[int]:
    return [place for place in range(len(data)) if data.startswith(mark, place)][:100]
