"""The bytes of a picture: it is measured, decoded, resized and cut for models of several inputs, as a run does it."""

import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from fuzz.values import BytesMutation, pick_integer
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.preprocessing import PictureOptions
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input

LONGEST = 1 << 14  # bytes of an input
FLOATS, BYTES = np.dtype(np.float32), np.dtype(np.uint8)
WHOLE = PictureOptions(resize="8x8", mean=(0.5,), std=(0.5,))
CUT = PictureOptions(resize="12", crop="8", mean=(0.5,), std=(0.5,))
MODELS = (
    (Input("x", FLOATS, ("N", 3, 8, 8)), WHOLE),
    (Input("x", FLOATS, ("N", 8, 8, 1)), CUT),
    (Input("x", BYTES, ("N", None, None, 3)), PictureOptions(resize="9x7", layout="nhwc")),
)
"""The inputs of the models that a picture is read for, and what the user says of pictures."""
PNG, HEAD = b"\x89PNG\r\n\x1a\n", 8  # the first bytes of a file; those of a chunk before its content
TIFF = (b"II*\0", b"MM\0*")
KINDS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"gAMA", b"acTL", b"zTXt", b"iCCP")


@cache
def _make_folder() -> Path:
    return Path(tempfile.mkdtemp())


def check(data: bytes) -> None:
    """Reads a folder with one picture for every model, and makes its array."""
    folder = _make_folder()
    (folder / "picture.png").write_bytes(data)
    errors = []
    for value, options in MODELS:
        try:
            arrays = PictureReader(options).read_folder(folder, "--calibration", (value,))
            made = np.asarray(arrays["x"])
            if made.shape != arrays["x"].shape or not np.isfinite(made).all():
                raise ValueError(f"a picture became {made.shape}, or something else than numbers")
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def mutate(data: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    """Changes the chunks of a PNG with right sums, numbers in the tables of a TIFF or of EXIF, or bytes."""
    if random.random() < 0.3:
        return mutate_bytes(data)
    if data.startswith(PNG):
        return _change_chunks(data, random, mutate_bytes)
    place = max((data.find(mark) for mark in TIFF), default=-1)
    return mutate_bytes(data) if place < 0 else _change_table(data, place, random)


def _change_chunks(data: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    chunks = _read_chunks(data)
    place = random.randrange(len(chunks) + 1)
    if place == len(chunks):
        chunks.insert(random.randrange(place + 1), (random.choice(KINDS), bytes(random.randrange(20))))
    elif random.random() < 0.2:
        del chunks[place]
    else:
        kind, content = chunks[place]
        if kind == b"IHDR" and random.random() < 0.7:
            content = _change_header(content, random)
        elif kind == b"IDAT" and random.random() < 0.7:
            content = _change_pixels(content, mutate_bytes)
        else:
            content = mutate_bytes(content)
        chunks[place] = (kind if random.random() < 0.9 else random.choice(KINDS)), content
    return PNG + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _read_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, start = [], len(PNG)
    while start + HEAD <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        content = data[start + HEAD : start + HEAD + length]
        chunks.append((data[start + 4 : start + HEAD], content))
        start += HEAD + len(content) + 4
    return chunks


def _change_header(content: bytes, random: Random) -> bytes:
    """Changes the size, the depth or the kind of colours."""
    changed = bytearray(content.ljust(13, b"\0"))
    if random.random() < 0.5:
        struct.pack_into(">I", changed, random.choice((0, 4)), pick_integer(random) % (1 << 32))
    else:
        changed[random.randrange(8, 13)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return bytes(changed)


def _change_pixels(content: bytes, mutate_bytes: BytesMutation) -> bytes:
    try:
        return zlib.compress(mutate_bytes(zlib.decompress(content)))
    except zlib.error:
        return mutate_bytes(content)


def _change_table(data: bytes, place: int, random: Random) -> bytes:
    """Changes a number behind the mark of a TIFF, in the order of bytes that it names."""
    changed = bytearray(data)
    order = "<" if data[place : place + 1] == b"I" else ">"
    size = random.choice((2, 4))
    start = random.randrange(place + 4, max(place + 5, len(data) - size))
    if start + size <= len(data):
        value = pick_integer(random) % (1 << 8 * size)
        struct.pack_into(order + {2: "H", 4: "I"}[size], changed, start, value)
    return bytes(changed)
