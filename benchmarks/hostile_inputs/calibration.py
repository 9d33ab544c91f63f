"""Samples: archives that are torn, arrays that are none, and values that cannot be fed."""

import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_inputs.case import Case, make_dice
from hostile_inputs.commands import FAST, MODEL
from hostile_inputs.small_models import make_bytes

KIND = "calibration"
DTYPES = ("u1", "i8", "i4", "?", "c8", "U4", "S3", "M8[s]", "m8[D]", "V5", "f2", "f8", ">f4", "O", "f4,i4", "g")
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 8), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-%d, -8), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (%d,), }", "{'descr': '<f4', 'shape': (%d, 8), }",
    "{'descr': '<f%d'}", "{'descr': '<f4', 'fortran_order': 7, 'shape': (%d, 8), }",
    "{'descr': [('a', '<f4', (%d,))], 'fortran_order': False, 'shape': (8,), }",
    "__import__('os').system('id') or %d", "{'descr': '<f4', 'fortran_order': False, 'shape': (1%s, 8), }",
    "(" * 3000 + "%d", "{'descr': '<f4', 'fortran_order': False, 'shape': '%d', }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (%d, 8), }",
    "{'descr': '<U%d', 'fortran_order': False, 'shape': (8,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,) * 9, }", "\x1b[2J%d",
    "{'descr': '<M8[%dY]', 'fortran_order': False, 'shape': (8,), }",
)  # fmt: skip
LARGE = (7, 10**6, 2**31, 2**40, 2**62, 2**63, 2**64 + 1, 10**30)
OPTIONS = ("--calibration", "--calibration", "--evaluation")


def make_case(index: int) -> Case:
    """Makes samples for the model `plain`; whole runs, since `inspect` reads none."""
    dice = make_dice(KIND, index)
    name, write, said = _choose(index)(dice)
    option = dice.choice(OPTIONS)
    plan = ("--plan", "-q", "--engine", "none") if dice.random() < 0.2 and option == "--calibration" else FAST
    good = make_good()

    def build(folder: Path) -> None:
        (folder / MODEL).write_bytes(make_bytes())
        (folder / "good.npz").write_bytes(good)
        write(folder / name)

    more = () if option == "--calibration" else ("--calibration", "good.npz")
    return Case(KIND, index, said, (MODEL, option, name, *more, *plan), build, may_be_valid=said.startswith("perhaps"))


def make_good(**arrays: Any) -> bytes:
    """The bytes of an archive with fitting samples, or with what is given."""
    stream = io.BytesIO()
    np.savez(stream, **(arrays or {"x": np.random.default_rng(3).standard_normal((12, 8)).astype(np.float32)}))
    return stream.getvalue()


Write = Callable[[Path], object]
Made = tuple[str, Write, str]


def _put(name: str, data: bytes, said: str) -> Made:
    return name, lambda path: path.write_bytes(data), said


def _cut(dice: random.Random) -> Made:
    data = make_good()
    return _put("data.npz", data[: dice.randrange(len(data))], "cut off")


def _flip(dice: random.Random) -> Made:
    data = bytearray(make_good())
    for _ in range(dice.choice((1, 3, 20))):
        data[dice.choice((dice.randrange(len(data)), dice.randrange(120), len(data) - 1 - dice.randrange(80)))] ^= (
            1 << dice.randrange(8)
        )
    return _put("data.npz", bytes(data), "perhaps: bits flipped")


def _array(dice: random.Random) -> Made:
    shape = dice.choice(
        ((12, 7), (12,), (), (0, 8), (12, 8, 1), (12, 0), (1, 12, 8), (8, 12), (12, 8), (5, 8), (1,) * 32)
    )
    dtype = dice.choice(DTYPES)
    array = np.zeros(shape, dtype)
    name = dice.choice(("x", "y", "", "\x1b[31mred", "\u202ex", "labels", "x.npy", "a/../b", "x\x00y", "X" * 3000))
    if dice.random() < 0.3:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        return _put("data.npy", stream.getvalue(), f"perhaps: {dtype} {list(shape)}")
    valid = "perhaps: " if array.dtype.kind == "f" and name != "labels" else ""
    return _put("data.npz", _save({name: array}), f"{valid}{name[:20]!r}: {dtype} {str(list(shape))[:30]}")


def _save(arrays: dict[str, Any]) -> bytes:
    """An archive with arrays of any name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", entry.getvalue())
    return stream.getvalue()


def _values(dice: random.Random) -> Made:
    array = (
        np.random.default_rng(dice.randrange(9))
        .standard_normal((12, 8))
        .astype(dice.choice((np.float32, np.float64, np.float16)))
    )
    array[dice.randrange(12), dice.randrange(8)] = dice.choice((np.nan, np.inf, -np.inf))
    return _put("data.npz", make_good(x=array), "NaN or infinite values")


def _too_large(dice: random.Random) -> Made:
    array = np.ones((dice.randrange(1, 30), 8))
    array[0, dice.randrange(8)] = dice.choice((1e39, -1e300, 3.5e38))
    return _put("data.npz", make_good(x=array), "values that the input's type does not hold")


def _labels(dice: random.Random) -> Made:
    x = np.ones((12, 8), np.float32)
    shape = dice.choice(((12,), (11,), (0,), (12, 4), (12, 3, 3), (), (24,), (12, 1)))
    value, kind = dice.choice((-1, 0, 4, 99, 2**60)), dice.choice(("i8", "i4", "u1", "f4", "U3", "?", "c8"))
    labels = np.full(shape, value).astype(kind)
    return _put("data.npz", _save({"x": x, "labels": labels}), f"perhaps: labels {labels.dtype} {list(shape)}")


def _arrays(dice: random.Random) -> Made:
    names = dice.sample(["a", "b", "y", "\x1b[2J", "labels", "x"], dice.randrange(0, 4))
    arrays = {name: np.ones((dice.choice((12, 12, 11)), 8), np.float32) for name in names}
    return _put("data.npz", _save(arrays), f"perhaps: arrays {names}")


def _header(dice: random.Random) -> Made:
    pattern, number = dice.choice(HEADERS), dice.choice(LARGE)
    text = pattern.replace("%s", "0" * 50) if "%s" in pattern else pattern % number
    raw = text.encode("latin-1") + b" " * dice.randrange(40) + b"\n"
    version = dice.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = dice.choice((len(raw), len(raw), 0, 65535)) if version == (1, 0) else dice.choice((len(raw), 2**32 - 1))
    size = struct.pack("<H" if version == (1, 0) else "<I", min(length, 65535) if version == (1, 0) else length)
    data = b"\x93NUMPY" + bytes(version) + size + raw + b"\0" * dice.choice((0, 64, 384))
    if dice.random() < 0.5:
        return _put("data.npy", data, f"perhaps: header {text[:80]!r}")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr("x.npy", data)
    return _put("data.npz", stream.getvalue(), f"perhaps: header {text[:80]!r} in an archive")


def _bomb(dice: random.Random) -> Made:
    """Archives that expand to far more than they are."""
    megabytes, count = dice.choice(((1, 300), (40, 2), (200, 1), (500, 1), (5, 20)))
    rows = megabytes << 20 >> 5
    kind = dice.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", kind) as archive:
            for number in range(count):
                with archive.open(f"x{number or ''}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.zeros((rows, dice.choice((8, 7))), np.float32))

    return "data.npz", write, f"perhaps: {count} × {megabytes} MB of zeros"


def _archive(dice: random.Random) -> Made:
    """Archives of what is no array."""
    names = ("x.npy", "x", "../x.npy", "/etc/x.npy", "x.npy/", "\x1b[2J.npy", "data.pkl", "")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for _ in range(dice.choice((0, 1, 2, 300))):
            content = dice.choice((b"", dice.randbytes(20), pickle.dumps({"x": 1}), make_good(), b"\x93NUMPY\x01\x00"))
            archive.writestr(zipfile.ZipInfo(dice.choice(names)), content)
    data = bytearray(stream.getvalue())
    if dice.random() < 0.4 and len(data) > 60:
        at = data.rfind(b"PK\x01\x02")
        data[at + 10 if at > 0 else 8] = dice.choice((8, 12, 14, 93, 99))  # another method of compression
    return _put("data.npz", bytes(data), "an archive of what is no array")


def _other(dice: random.Random) -> Made:
    """Files of other kinds, under names that promise arrays."""
    noise = dice.randbytes(dice.randrange(1, 900))
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": noise}], dtype=object), allow_pickle=True)
    kinds: dict[str, bytes] = {
        "data.npz": noise, "data.npy": noise, "data.txt": noise, "data.csv": b"1,2,3\n" + noise,
        "data.pkl": pickle.dumps([noise]), "data.parquet": b"PAR1" + noise + b"PAR1",
        "data.jsonl": b'{"x": [1, 2]}\n' + noise, "data.json": b"{", "data": noise, "data.pt": noise,
        "data.safetensors": struct.pack("<Q", 2**60) + noise, "obj.npy": stream.getvalue(), "e.npz": b"",
        "\x1b[31m.npz": noise, "PK.npz": b"PK\x03\x04" + noise, "PK5.npz": b"PK\x05\x06" + noise,
        "a.arrow": b"ARROW1" + noise,
    }  # fmt: skip
    name = dice.choice(list(kinds))
    return _put(name, kinds[name], f"another kind of file: {name!r}")


def _place(dice: random.Random) -> Made:
    """What is no file, or a folder of bad files."""
    kind = dice.choice(
        (
            "pipe.npz",
            "link.npz",
            "circle.npz",
            "zero.npz",
            "empty",
            "folder",
            "gone.npz",
            "gone:function",
            "os:getcwd",
            "m:f",
        )
    )
    inner = dice.choice((make_good(y=np.ones(3)), b"PK", make_good()[:-9], make_good(x=np.full((3, 8), np.nan))))
    marks = dice.randrange(100)

    def write(path: Path) -> None:
        (path.parent / f"mark{marks}").write_text("")
        match kind:
            case "pipe.npz":
                os.mkfifo(path)
            case "link.npz":
                path.symlink_to("gone")
            case "circle.npz":
                path.symlink_to(path.name)
            case "zero.npz":
                path.symlink_to("/dev/zero")
            case "empty":
                path.mkdir()
            case "folder":
                path.mkdir()
                (path / "a.npz").write_bytes(make_good())
                (path / "b.npz").write_bytes(inner)
            case "m:f":
                bodies = (
                    "raise ValueError('\\x1b[2J')",
                    "return 7",
                    "return ['a']",
                    "yield {}",
                    "yield {'x': 'a'}",
                    "import sys; sys.exit(0)",
                    "return None",
                    "yield {'x': [[float('nan')] * 8]}",
                    "raise MemoryError",
                    "yield from f()",
                    "yield {7: 8}",
                    "yield [[1]]",
                    "yield {'x': [[1, 2], [3]]}",
                )
                (path.parent / "m.py").write_text(f"def f():\n    {bodies[marks % len(bodies)]}\n", encoding="utf-8")

    return kind, write, f"{kind} ({marks})"


CHANGES: tuple[Callable[[random.Random], Made], ...] = (
    _cut, _flip, _array, _values, _header, _labels, _archive, _other, _array, _place, _arrays, _too_large, _header,
    _flip, _cut, _array,
)  # fmt: skip
BOMB_EVERY = 40


def _choose(index: int) -> Callable[[random.Random], Made]:
    return _bomb if index % BOMB_EVERY == BOMB_EVERY - 1 else CHANGES[index % len(CHANGES)]
