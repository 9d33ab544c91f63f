"""`.pt2` archives: JSON with another graph, operators or expressions, entries that are missing, and pickles."""

import functools
import io
import json
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_inputs.case import Case, make_dice, run_in_copy
from hostile_inputs.commands import FAST
from hostile_inputs.json_changes import change_json

KIND = "programs"
FILE = "model.pt2"
JSON, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
TARGETS = (
    "os.system", "builtins.eval", "torch.ops.aten.gone.default", "torch.ops.aten.linear.gone",
    "torch.ops.x.y.default", "", "torch.ops.aten._sparse_coo_tensor_unsafe.default",
    "torch.ops.aten.as_strided.default", "torch.ops.aten.resize_.default", "torch.ops.higher_order.cond",
    "torch.ops.aten.relu.default", "torch.ops.aten.mm.default", "\x1b[2J", "_operator.add",
    "torch.ops.aten.set_.source_Tensor", "torch.hub.load", "math.ceil", "torch.ops.prims.mul.default", "a" * 9000,
)  # fmt: skip
EXPRESSIONS = (
    "__import__('os').system('id')", "s0", "Symbol('s0', positive=True, integer=True)",
    "Pow(Integer(9), Integer(999999999))", "Mod(Symbol('s0', positive=True, integer=True), Integer(0))", "(" * 5000,
    "Integer(1" + "0" * 5000 + ")", "", "oo", "zoo", "Max(" + ",".join(f"Symbol('s{n}')" for n in range(99)) + ")",
    "1e400", "lambda: 0", "Rational(1, 0)", "-Integer(7)", "Pow(Add(Symbol('s0'), Integer(1)), Integer(64))",
    "\x1b[2J", "FloorDiv(Integer(1), Integer(0))", "Float('nan')",
)  # fmt: skip
NAMES = (
    "model/models/../../x", "model/models/other.json", "model/data/weights/custom_obj_0",
    "model/data/aotinductor/model/x.so", "model/models/model.json", "model/data/weights/weight_99", "/etc/x",
    "model/extra/a", "other/models/model.json", "model/", "model/\x1b[2J", "", "model/data/constants/custom_obj_0",
    "model/version",
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes one archive; most are only inspected."""
    dice = make_dice(KIND, index)
    data, said = CHANGES[index % len(CHANGES)](dice)
    command = (FILE, *FAST) if dice.random() < 0.06 else ("inspect", FILE)

    def build(folder: Path) -> None:
        (folder / FILE).write_bytes(data)

    return Case(KIND, index, said[:220], command, build, may_be_valid=True)


@functools.cache
def make_entries() -> dict[str, bytes]:
    """The entries of a small valid program by name, in order. It is made once, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / FILE
        run_in_copy(lambda: _save_program(file))
        with zipfile.ZipFile(file) as archive:
            return {entry: archive.read(entry) for entry in archive.namelist()}


def _save_program(file: Path) -> None:
    import torch  # noqa: PLC0415 - only where it is made

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    axes = {0: torch.export.Dim("rows", min=1, max=64)}
    torch.export.save(torch.export.export(module, (torch.ones(2, 8),), dynamic_shapes=(axes,)), file)


def _find(ending: str) -> str:
    return next(name for name in make_entries() if name.endswith(ending))


def _pack(
    entries: dict[str, bytes], more: tuple[tuple[str, bytes], ...] = (), method: int = zipfile.ZIP_STORED
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in (*entries.items(), *more):
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


Made = tuple[bytes, str]


def _json(dice: random.Random) -> Made:
    name = _find(dice.choice((JSON, JSON, JSON, JSON, "weights_config.json", "constants_config.json")))
    new, said = change_json(make_entries()[name], dice)
    return _pack(make_entries() | {name: new}), f"{name}: {said}"


def _edit(change: Callable[[Any], None]) -> bytes:
    name = _find(JSON)
    value = json.loads(make_entries()[name])
    change(value)
    return _pack(make_entries() | {name: json.dumps(value).encode()})


def _operator(dice: random.Random) -> Made:
    target, place = dice.choice(TARGETS), dice.randrange(3)

    def change(value: Any) -> None:
        nodes = value["graph_module"]["graph"]["nodes"]
        nodes[place % len(nodes)]["target"] = target
        if dice.random() < 0.3:
            nodes[0]["inputs"] = nodes[0]["inputs"][: dice.randrange(3)]

    return _edit(change), f"node {place} calls {target[:60]!r}"


def _expression(dice: random.Random) -> Made:
    text, hint = (
        dice.choice(EXPRESSIONS),
        dice.choice((None, {"as_int": 2}, {"as_int": -1}, {"as_float": 0.5}, {"as_bool": True})),
    )

    def change(value: Any) -> None:
        values = value["graph_module"]["graph"]["tensor_values"]
        name = dice.choice(sorted(values))
        values[name]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": hint}}

    return _edit(change), f"size {text[:60]!r}, {hint}"


def _sizes(dice: random.Random) -> Made:
    size = dice.choice((0, -1, 3, 2**40, 2**62, 10**30, 1.5, "x", None))
    field = dice.choice(("sizes", "strides", "dtype", "storage_offset", "layout", "device", "requires_grad"))

    def change(value: Any) -> None:
        values = value["graph_module"]["graph"]["tensor_values"]
        entry = values[dice.choice(sorted(values))]
        if isinstance(entry[field], list):
            entry[field][dice.randrange(len(entry[field]))] = {"as_int": size}
        else:
            entry[field] = size

    return _edit(change), f"{field} {size!r} of a value"


def _range(dice: random.Random) -> Made:
    low, high = (dice.choice((None, 0, -1, 1, 2, 64, 2**62, 10**30, "x")) for _ in range(2))

    def change(value: Any) -> None:
        ranges = value["range_constraints"]
        name = dice.choice([*ranges, "s0", "s99", "\x1b[2J"])
        ranges[name] = {"min_val": low, "max_val": high}

    return _edit(change), f"range {low} to {high}"


def _version(dice: random.Random) -> Made:
    key = dice.choice(("schema_version", "opset_version", "torch_version", "verifiers"))
    new = dice.choice(
        ({}, {"major": 99, "minor": 0}, {"major": 8, "minor": 99}, {"aten": 99}, "0.1", "99", [], None, ["x"], -1)
    )

    def change(value: Any) -> None:
        value[key] = new

    return _edit(change), f"{key} {new}"


def _weights(dice: random.Random) -> Made:
    name = _find(f"weight_{dice.randrange(4)}")
    old = make_entries()[name]
    new = dice.choice(
        (
            b"",
            old[: dice.randrange(len(old))],
            old + dice.randbytes(dice.randrange(1, 90)),
            pickle.dumps(dice.random()),
            struct.pack("<f", float("nan")) * (len(old) // 4),
        )
    )
    return _pack(make_entries() | {name: new}), f"{name}: {len(new)} bytes in place of {len(old)}"


def _missing(dice: random.Random) -> Made:
    names = dice.sample(list(make_entries()), dice.randrange(1, 4))
    return _pack({name: data for name, data in make_entries().items() if name not in names}), f"without {names}"


def _more(dice: random.Random) -> Made:
    name, content = (
        dice.choice(NAMES),
        dice.choice((b"", b"{}", b"\x80\x02.", dice.randbytes(30), make_entries()[_find(JSON)])),
    )
    return _pack(make_entries(), ((name, content),)), f"an entry {name!r} more, {len(content)} bytes"


def _archive(dice: random.Random) -> Made:
    data = _pack(make_entries())
    at = dice.randrange(len(data))
    match dice.randrange(5):
        case 0:
            return data[:at], f"cut off after {at} bytes"
        case 1:
            changed = bytearray(data)
            for _ in range(dice.choice((1, 4, 30))):
                changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            return bytes(changed), "bits flipped"
        case 2:
            return _pack(make_entries(), method=dice.choice((8, 12, 14))) + dice.randbytes(at % 50), "compressed"
        case 3:
            return dice.randbytes(at % 3000 + 1), "noise"
    prefix = dice.choice(("a/", "", "../", "\x1b/", "model/model/"))
    return _pack(
        {prefix + name.partition("/")[2]: content for name, content in make_entries().items()}
    ), f"folder {prefix!r}"


def _samples(dice: random.Random) -> Made:
    bombs = (
        b"\x80\x02cos\nsystem\n(S'id'\ntR.", b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".",
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\xff\xff\xff\xff\x7f\x85R.",
        pickle.dumps(_share(dice.randrange(5, 40)), protocol=2), pickle.dumps({"a": dice.random()}, protocol=4), b"",
        b"\x80\x02", b"junk" * 99, pickle.dumps([1] * dice.randrange(9, 10**5), protocol=2),
        b"\x80\x02ctorch\n_utils\n_rebuild_tensor_v2\n)R.", dice.randbytes(200),
    )  # fmt: skip
    content = dice.choice(bombs)
    if dice.random() < 0.7:
        parts = {"a/data.pkl": content, "a/byteorder": b"little", "a/version": b"3\n", "a/.data/serialization_id": b"0"}
        content = _pack(parts)
    if dice.random() < 0.2:
        old = make_entries()[_find(SAMPLES)]
        content = old[: dice.randrange(len(old))]
    return _pack(make_entries() | {_find(SAMPLES): content}), f"example inputs of {len(content)} bytes"


def _share(depth: int) -> Any:
    value: Any = (1,)
    for _ in range(depth):
        value = (value, value)
    return ((value,), {})


CHANGES: tuple[Callable[[random.Random], Made], ...] = (
    _json, _operator, _archive, _json, _expression, _samples, _sizes, _json, _weights, _missing, _range, _version,
    _more, _archive, _json,
)  # fmt: skip
