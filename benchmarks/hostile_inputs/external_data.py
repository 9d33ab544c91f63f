"""External data: names, offsets and lengths that do not fit, and things that are no file."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from hostile_inputs.case import Case, make_dice
from hostile_inputs.commands import MODEL, read_model
from hostile_inputs.small_models import make_model
from onnx import numpy_helper

KIND = "external data"
SIZE = 768  # bytes of both weights
LOCATIONS = (
    "", ".", "..", "/", "/etc/hostname", "../outside.bin", "a/../../outside.bin", "sub/../../in/../outside.bin",
    "gone.bin", "model.onnx/x", "\0", "d.bin\0.txt", "\x1b[2Jd.bin", "\u202enib.d", "C:\\d.bin", "\\\\host\\d.bin",
    "d.bin/", "n" * 300, "n/" * 3000, "folder", "pipe", "link", "circle", "device", "~/.profile",
    "file:///etc/hostname", "http://host/d.bin", "*", "$HOME/d.bin", "socket",
)  # fmt: skip
NUMBERS = (
    "-1", "1", "767", "768", "769", "4096", "9223372036854775807", "9223372036854775808", "18446744073709551615",
    "1e3", "0x10", "", " 0", "+0", "٣", "0.0", "1" * 5000, "\x1b[0m", "None", "-0", "1_0",
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes one model with its files."""
    dice = make_dice(KIND, index)
    how = CHANGES[index % len(CHANGES)]
    proto = make_model(dice.choice(("plain", "plain", "attention", "conv", "folded")))
    content = store_outside(proto)
    prepare, said = how(proto, dice)
    data, valid = proto.SerializeToString(), said.startswith("perhaps")

    def build(folder: Path) -> None:
        (folder / "d.bin").write_bytes(content)
        (folder / MODEL).write_bytes(data)
        prepare(folder)

    return Case(KIND, index, said, read_model(dice), build, may_be_valid=valid)


def store_outside(proto: onnx.ModelProto) -> bytes:
    """Makes all weights external, in `d.bin`, and returns its bytes."""
    content = b""
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        set_place(tensor, location="d.bin", offset=str(len(content)), length=str(len(raw)))
        content += raw
    return content


def set_place(tensor: onnx.TensorProto, **entries: str) -> None:
    """Says where the data of a tensor are; what is not named keeps its value."""
    now = {entry.key: entry.value for entry in tensor.external_data} | entries
    for field in ("raw_data", "float_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in now.items():
        tensor.external_data.add(key=key, value=value)


Prepare = Callable[[Path], None]


def _leave(_folder: Path) -> None:
    pass


def _choose(proto: onnx.ModelProto, dice: random.Random) -> onnx.TensorProto:
    return dice.choice([tensor for tensor in proto.graph.initializer if tensor.dims])


def _rename(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    location = dice.choice(LOCATIONS)
    set_place(_choose(proto, dice), location=location)

    def prepare(folder: Path) -> None:
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "circle").symlink_to("circle")
        (folder / "link").symlink_to("/etc/hostname" if dice.random() < 0.5 else "../../outside.bin")
        (folder / "device").symlink_to("/dev/zero")

    return prepare, f"{'perhaps: ' if location == 'd.bin/' else ''}location {location[:60]!r}"


def _renumber(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    key, value = dice.choice(("offset", "length")), dice.choice(NUMBERS)
    set_place(_choose(proto, dice), **{key: value})
    return _leave, f"perhaps: {key} {value[:40]!r}"


def _both(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    offset, length = dice.choice(NUMBERS), dice.choice(NUMBERS)
    set_place(_choose(proto, dice), offset=offset, length=length)
    return _leave, f"perhaps: offset {offset[:30]!r}, length {length[:30]!r}"


def _shorten(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    size = sum(np.prod(tensor.dims, dtype=int) * 4 for tensor in proto.graph.initializer)
    left = dice.randrange(size)

    def prepare(folder: Path) -> None:
        with (folder / "d.bin").open("r+b") as file:
            file.truncate(left)

    return prepare, f"the file ends after {left} bytes"


def _reshape(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    tensor = _choose(proto, dice)
    dims = dice.choice(
        ([2**31, 4], [-8, -16], [2**62], [2**33, 2**33], [8, 8, 8, 8], [3], [10**9], [0, 8], [], [1] * 300)
    )
    tensor.ClearField("dims")
    tensor.dims.extend(dims)
    if dice.random() < 0.5:
        set_place(tensor, length=str(dice.choice((4 * abs(int(np.prod(np.array(dims, float)))), 0))))
    return _leave, f"perhaps: shape {str(dims)[:60]}"


def _retype(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    tensor = _choose(proto, dice)
    tensor.data_type = dice.choice((0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 20, 21, 22, 23, 40, -1))
    return _leave, f"perhaps: type {tensor.data_type}"


def _entries(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    tensor = _choose(proto, dice)
    match dice.randrange(4):
        case 0:
            tensor.ClearField("external_data")
        case 1:
            tensor.external_data.add(key="location", value=dice.choice(LOCATIONS))
        case 2:
            tensor.external_data.add(
                key=dice.choice(("offset", "length", "checksum", "\x1b")), value=dice.choice(NUMBERS)
            )
        case _:
            tensor.raw_data = dice.randbytes(dice.randrange(1, 600))
    return _leave, "perhaps: entries missing, twice, or beside values in the model"


def _replace(_proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    kind = dice.choice(
        ("nothing", "a folder", "a named pipe", "a link out", "a circle", "a device", "unreadable", "empty")
    )
    inner = dice.randrange(1000)

    def prepare(folder: Path) -> None:
        file = folder / "d.bin"
        file.unlink()
        (folder / f"other{inner}").write_text("another file")
        if kind == "a folder":
            file.mkdir()
        elif kind == "a named pipe":
            os.mkfifo(file)
        elif kind == "empty":
            file.touch()
        elif kind != "nothing":
            file.symlink_to(
                {"a link out": "/etc/hostname", "a circle": "d.bin", "a device": "/dev/zero"}.get(kind, "/root/x")
            )

    return prepare, f"{kind} in the place of the file"


def _values(proto: onnx.ModelProto, dice: random.Random) -> tuple[Prepare, str]:
    size = sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer)
    numbers = np.full(size, dice.choice((np.nan, np.inf, -np.inf)), np.float32)
    numbers[dice.randrange(size) :] = 1

    def prepare(folder: Path) -> None:
        (folder / "d.bin").write_bytes(numbers.tobytes())

    return prepare, "perhaps: NaN or infinite values"


CHANGES = (_rename, _renumber, _shorten, _both, _replace, _rename, _reshape, _entries, _retype, _shorten, _values)
