"""Programs of strangers: whatever is planted in a `.pt2` file, no code of it runs, and one sentence says why."""

import contextlib
import functools
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prox24_export import inspect
from prox24_export.errors import InputError
from prox24_export.models.program_archive import PROGRAM, SAMPLES, expect_harmless
from tests.command import expect_refusal, in_process, snapshot

MARKER = Path("marker")
CODE = "open('marker', 'w').close()"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


class Halves(nn.Module):
    """Two linear layers, and sizes that are half of one, a product and the larger of two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.table: Tensor
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        rows = self.last(torch.relu(self.first(x))) + self.table.sum()
        larger = torch.zeros(max(x.shape[0], y.shape[0]))
        return rows, y[: y.shape[0] // 2], rows.reshape(x.shape[0] * x.shape[1], 4), larger


class Evil:
    """Writes the marker when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, ("marker", "w")


@functools.cache
def entries() -> dict[str, bytes]:
    """What torch writes for `Halves`, by name of the entry."""
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        Halves().eval(), (torch.randn(4, 6, 8), torch.randn(10)), dynamic_shapes=({0: auto, 1: auto}, {0: auto})
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (entries() | changed).items():
            archive.writestr(f"archive/{name}", content)
    return path


def change(name: str, edit: Callable[[Any], None]) -> dict[str, bytes]:
    """The entry with its JSON changed."""
    value = json.loads(entries()[name])
    edit(value)
    return {name: json.dumps(value).encode()}


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(part)


def set_first(key: str, make: Callable[[Any], Any]) -> dict[str, bytes]:
    """The program with the value of the first such key changed."""

    def edit(program: Any) -> None:
        owner = next(found for found in objects(program) if key in found)
        owner[key] = make(owner[key])

    return change(PROGRAM, edit)


def graph_edit(edit: Callable[[Any], None]) -> dict[str, bytes]:
    return change(PROGRAM, lambda program: edit(program["graph_module"]["graph"]))


def rename_input(graph: Any, name: str) -> None:
    """Renames an input everywhere, as a file would that torch's reader takes."""
    old = graph["inputs"][-1]["as_tensor"]["name"]
    text = json.dumps(graph).replace(json.dumps(old), json.dumps(name))
    graph.update(json.loads(text))


def call(graph: Any, target: str, *strings: str) -> None:
    """Makes the first node a call of another function with texts as arguments."""
    arguments = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in strings]
    graph["nodes"][0] |= {"target": target, "inputs": arguments}


def repeat(config: Any) -> None:
    for payload in config["config"].values():
        payload["tensor_meta"] |= {"sizes": [{"as_int": 1 << 20}] * 2, "strides": [{"as_int": 0}] * 2}


def pickled(config: Any) -> None:
    for payload in config["config"].values():
        payload["use_pickle"] = True


def custom(config: Any) -> None:
    config["config"]["object"] = {
        "path_name": "custom_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }


TREE = '[1, {{"type": {}, "context": {}, "children_spec": []}}]'
ENUM = '{"__enum__": true, "fqn": "marker_module:Colour", "name": "red"}'
PLANTED: dict[str, Callable[[], dict[str, bytes]]] = {
    "size": lambda: set_first("expr_str", lambda old: f"[{old}, {CODE}][0]"),
    "symbol": lambda: set_first("expr_str", lambda _old: f'Symbol("{CODE}", integer=True)'),
    "power": lambda: set_first("expr_str", lambda _old: "Pow(Integer(9), Pow(Integer(9), Integer(9)))"),
    "shift": lambda: set_first("expr_str", lambda _old: "LShift(Integer(9), Integer(999999999999))"),
    "digits": lambda: set_first("expr_str", lambda _old: f"Integer({'9' * 5000})"),
    "depth": lambda: set_first("expr_str", lambda _old: "Add(" * 300 + "Integer(1)" + ")" * 300),
    "expressions without end": lambda: graph_edit(
        lambda graph: graph.update(
            sym_int_values={
                f"s{index}": {"as_expr": {"expr_str": f"Add({', '.join(['Integer(7)'] * 15)}, Integer({index}))"}}
                for index in range(400)
            }
        )
    ),
    "guard": lambda: set_first("guards_code", lambda old: [*old, f"[{CODE}]"]),
    "guard that ends the text around it": lambda: set_first("guards_code", lambda _old: [f"L['x\"+{CODE}+\"'] == 1"]),
    "guard with a method": lambda: set_first("guards_code", lambda _old: ["L['x'].__class__ == 1"]),
    "range": lambda: set_first("range_constraints", lambda old: old | {CODE: {"min_val": 1, "max_val": 2}}),
    "symbol without end": lambda: set_first(
        "range_constraints", lambda old: old | {"u99999999999": {"min_val": 1, "max_val": 2}}
    ),
    "function": lambda: graph_edit(lambda graph: call(graph, "torch.serialization.os.system", "touch marker")),
    "file": lambda: graph_edit(lambda graph: call(graph, "torch.ops.aten.from_file.default", "marker")),
    "operator that trusts its indices": lambda: graph_edit(
        lambda graph: call(graph, "torch.ops.aten._sparse_coo_tensor_unsafe.default")
    ),
    "TorchScript's function": lambda: graph_edit(lambda graph: call(graph, "torch.ops.aten.save.default", "marker")),
    "operator": lambda: graph_edit(lambda graph: call(graph, "_operator.methodcaller", "system")),
    "call of an object": lambda: graph_edit(lambda graph: call(graph, "torch.ops.higher_order.call_torchbind", "a")),
    "argument that is a function": lambda: graph_edit(
        lambda graph: graph["nodes"][0]["inputs"][0].update(arg={"as_operator": "torch.serialization.os.system"})
    ),
    "name of an input": lambda: graph_edit(lambda graph: rename_input(graph, f"y={CODE}")),
    "name of a node": lambda: graph_edit(lambda graph: graph["nodes"][0].update(name=f"a={CODE}\n    b")),
    "text as an input": lambda: graph_edit(lambda graph: graph["inputs"].append({"as_string": f"'+{CODE}+'"})),
    "name of an argument": lambda: set_first("forward_arg_names", lambda _old: [f"x={CODE}"]),
    "factory of a container": lambda: set_first(
        "out_spec",
        lambda _old: TREE.format(
            '"collections.defaultdict"',
            '{"default_factory_module": "marker_module", "default_factory_name": "make", "dict_context": []}',
        ),
    ),
    "key of a container": lambda: set_first(
        "out_spec", lambda _old: TREE.format('"builtins.dict"', json.dumps(f"[{ENUM}]"))
    ),
    "object": lambda: graph_edit(
        lambda graph: graph.update(custom_obj_values={"a": {"name": "a", "class_fqn": "__torch__.a"}})
    ),
    "pickled weights": lambda: change(WEIGHTS, pickled) | {"data/weights/weight_0": pickle.dumps(Evil())},
    "pickled constants": lambda: change(CONSTANTS, pickled) | {"data/constants/tensor_0": pickle.dumps(Evil())},
    "pickled samples": lambda: {SAMPLES: pickle.dumps(Evil())},
    "samples saved by torch": lambda: {SAMPLES: save(((Evil(),), {}))},
    "key of a sample": lambda: {SAMPLES: save(((torch.randn(4, 6, 8), {f"'+{CODE}+'": torch.randn(10)}), {}))},
    "custom object": lambda: change(CONSTANTS, custom) | {"data/constants/custom_obj_0": pickle.dumps(Evil())},
    "opaque object": lambda: {"data/constants/opaque_obj_0": pickle.dumps(Evil())},
    "weights of old": lambda: {"data/weights/model.pt": pickle.dumps(Evil())},
    "compiled code": lambda: {"data/aotinductor/model/a.so": b""},
    "name outside": lambda: {"extra/../../marker": b""},
    "sizes": lambda: change(WEIGHTS, repeat),
    "no bytes": lambda: change(WEIGHTS, repeat) | dict.fromkeys((f"data/weights/weight_{i}" for i in range(4)), b""),
    "key twice": lambda: {PROGRAM: entries()[PROGRAM][:-1] + b', "guards_code": []}'},
    "no object": lambda: {PROGRAM: b"[]"},
    "no JSON": lambda: {PROGRAM: entries()[PROGRAM][:99]},
    "deep JSON": lambda: {PROGRAM: b"[" * 100_000},
    "another version": lambda: set_first("schema_version", lambda _old: {"major": 99, "minor": 0}),
    "another version of the archive": lambda: {"archive_version": b"99"},
    "type": lambda: graph_edit(lambda graph: graph["tensor_values"]["x"].update(dtype="7")),
}


def save(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "marker_module.py").write_text(CODE, encoding="utf-8")


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_refused_in_one_sentence_and_does_nothing(planted: str, capfd: Any) -> None:
    path = write(Path("evil.pt2"), PLANTED[planted]())
    with pytest.raises(
        InputError, match=r"evil\.pt2 (cannot be read safely: its entry|is no exported program: )"
    ) as told:
        inspect(path)
    assert not MARKER.exists()
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_a_program_with_half_sizes_products_and_guards_is_read() -> None:
    program = json.loads(entries()[PROGRAM])
    assert any("// 2" in guard for guard in program["guards_code"])
    written = [found["expr_str"] for found in objects(program) if "expr_str" in found]
    assert all(any(name in text for text in written) for name in ("FloorDiv", "Max", "Mul"))
    assert [layer.name for layer in inspect(write(Path("good.pt2"), {}))] == ["first", "last"]


class Several(nn.Module):
    """What programs have: a recurrent layer, attention, a convolution, a buffer that changes, arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.attend = nn.LSTM(8, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.parts = nn.BatchNorm1d(8), nn.ModuleDict({"a-b": nn.Linear(8, 8), "c d": nn.Conv1d(8, 4, 3)})

    def forward(self, x: Tensor, mode: str = "it's", *, scale: float = 1.0) -> dict[str, Any]:
        rows, state = self.lstm(x)
        rows = self.parts["a-b"](self.attend(rows, rows, rows)[0]) * scale
        rows = torch.relu(rows) if mode == "fast" else rows
        found = self.parts["c d"](self.norm(rows.transpose(1, 2)))
        wide = nn.functional.interpolate(found, scale_factor=1.5)
        return {"wide": wide, "state": state, "some": [rows[rows[:, 0, 0] > 0], (None, wide.new_zeros(len(x) ** 2))]}


@pytest.mark.parametrize("decomposed", [False, True])
def test_what_programs_have_is_read(decomposed: bool) -> None:
    auto = torch.export.Dim.AUTO
    inputs, axes = (torch.randn(3, 7, 8), "fast"), ({0: auto, 1: auto}, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own LSTM
        program = torch.export.export(Several().eval(), inputs, {"scale": 2.0}, dynamic_shapes=axes)
        program = program.run_decompositions() if decomposed else program
    torch.export.save(program, "several.pt2")
    assert "parts.a-b" in {layer.name for layer in inspect("several.pt2")} or decomposed


def test_the_command_says_nothing_but_what_is_wrong(tmp_path: Path, capfd: Any) -> None:
    write(tmp_path / "evil.pt2", PLANTED["size"]())
    before = snapshot(tmp_path)
    expect_refusal(in_process("inspect", "evil.pt2", folder=tmp_path, capture=capfd), 2, before, tmp_path)


def test_names_twice_torn_and_compressed_archives_are_refused() -> None:
    whole = write(Path("good.pt2"), {}).read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        Path("torn.pt2").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"torn\.pt2 is no exported program"):
            inspect("torn.pt2")
    with zipfile.ZipFile("good.pt2", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name is there already
        archive.writestr(f"archive/{PROGRAM}", b"{}")
    with pytest.raises(InputError, match="is there twice"):
        inspect("good.pt2")
    write(Path("bomb.pt2"), {"extra/zeros": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="is compressed or overlaps another"):
        inspect("bomb.pt2")


@settings(max_examples=60)
@given(st.data())
def test_bytes_that_fell_over_are_refused_or_harmless(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([PROGRAM, WEIGHTS, CONSTANTS, SAMPLES, "archive_format"]))
    content = bytearray(entries()[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        expect_harmless(write(Path("odd.pt2"), {name: bytes(content)}))
