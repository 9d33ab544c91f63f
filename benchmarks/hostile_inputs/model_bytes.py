"""Bytes of ONNX files: cut off, flipped, and put together from several files."""

import gzip
import io
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_inputs.case import Case, make_dice
from hostile_inputs.commands import MODEL, read_model
from hostile_inputs.small_models import NAMES, make_bytes

KIND = "model bytes"
WIRE_KINDS = 6


def make_case(index: int) -> Case:
    """Makes one file; it may still be a valid model where its bytes are changed at random."""
    dice = make_dice(KIND, index)
    name = dice.choice(NAMES)
    how = CHANGES[index % len(CHANGES)]
    data = how(make_bytes(name), dice)
    doc = (how.__doc__ or "").rstrip(".")

    def build(folder: Path) -> None:
        (folder / MODEL).write_bytes(data)

    return Case(KIND, index, f"{doc} ({name})", read_model(dice), build, may_be_valid=True)


def _cut(data: bytes, dice: random.Random) -> bytes:
    """Cut off."""
    return data[: dice.randrange(len(data))]


def _flip(data: bytes, dice: random.Random) -> bytes:
    """Bits flipped."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 2, 4, 16, 64))):
        changed[dice.choice(_list_places(data))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _replace(data: bytes, dice: random.Random) -> bytes:
    """Bytes replaced by large numbers or nothing."""
    at = dice.choice(_list_places(data))
    new = dice.choice((b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\0" * 8, b"\x1b[2J", dice.randbytes(12)))
    return data[:at] + new + data[at + len(new) :]


def _insert(data: bytes, dice: random.Random) -> bytes:
    """Bytes inserted."""
    at = dice.randrange(len(data))
    return data[:at] + dice.randbytes(dice.choice((1, 3, 17, 400))) + data[at:]


def _drop(data: bytes, dice: random.Random) -> bytes:
    """A part left out."""
    at = dice.choice(_list_places(data))
    return data[:at] + data[at + dice.choice((1, 2, 7, 40, 200)) :]


def _splice(data: bytes, dice: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    other = make_bytes(dice.choice(NAMES))
    return data[: dice.randrange(len(data))] + other[dice.randrange(len(other)) :]


def _merge(data: bytes, dice: random.Random) -> bytes:
    """Two files one behind the other, which protobuf merges."""
    other = make_bytes(dice.choice(NAMES))
    return data + other[: dice.choice((len(other), dice.randrange(len(other))))]


def _shuffle(data: bytes, dice: random.Random) -> bytes:
    """Fields of protobuf repeated, left out, or of another kind on the wire."""
    fields = list(_list_fields(data))
    for _ in range(dice.choice((1, 2, 5))):
        at = dice.randrange(len(fields))
        head, body = fields[at]
        match dice.randrange(4):
            case 0:
                fields.insert(dice.randrange(len(fields)), (head, body))
            case 1:
                fields[at] = (bytes([(head or b"\0")[0] & 0xF8 | dice.randrange(WIRE_KINDS)]), body)
            case 2:
                fields[at] = (bytes([dice.randrange(1, 128)]), body)
            case _:
                fields[at] = (b"", b"")
    return b"".join(head + body for head, body in fields)


def _nest(_data: bytes, dice: random.Random) -> bytes:
    """Messages within messages: a graph in an attribute of a node of a graph, and so on."""
    inner = b""
    for _ in range(dice.choice((20, 60, 120, 2000, 9000))):
        attribute = _wrap(5, b"\x0a\x01a" + _wrap(6, inner))  # NodeProto.attribute, AttributeProto.g
        inner = _wrap(1, b"\x22\x02If" + attribute)  # GraphProto.node
    return b"\x08\x08" + _wrap(7, inner) + _wrap(8, b"\x10\x0d") + dice.randbytes(dice.randrange(2))


def _other(data: bytes, dice: random.Random) -> bytes:
    """Another kind of file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"model{dice.randrange(99)}.onnx", data)
    noise = dice.randbytes(dice.randrange(1, 3000))
    text = f"<!DOCTYPE html><p>{noise.hex()}</p>".encode()
    return dice.choice(
        (
            archive.getvalue(),
            gzip.compress(noise),
            pickle.dumps({"model": noise}),
            text,
            b"",
            noise,
            b"\x89HDF\r\n\x1a\n" + noise,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + text,
            b"\0" * len(noise),
            b"ORTM" + noise,
            b"\x08" * len(noise),
            b"\x0a" + b"\xff" * len(noise),
            noise[:7],
        )
    )


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _flip, _replace, _insert, _drop, _splice, _shuffle, _flip, _cut, _merge, _other, _nest, _replace, _drop,
)  # fmt: skip


def _list_places(data: bytes) -> range:
    """Where structure is: of these small files all but the tail, which is mostly values of weights."""
    return range(max(1, len(data) * 2 // 3)) if len(data) > 900 else range(len(data))


def _list_fields(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the fields of the graph and of the model around it: the key, and all behind it."""
    place = 0
    while place < len(data):
        head, kind = data[place : place + 1], data[place] & 7
        size, behind = _read_number(data, place + 1)
        end = behind + size if kind == 2 else behind
        if head == b"\x3a":  # the graph: its own fields
            yield head, data[place + 1 : behind]
            yield from _list_fields(data[behind:end])
        else:
            yield head, data[place + 1 : end]
        place = end


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if byte < 0x80:
            break
    return value, place


def _wrap(number: int, content: bytes) -> bytes:
    size, text = len(content), bytearray([number << 3 | 2])
    while size >= 0x80:
        text.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(text) + bytes([size]) + content
