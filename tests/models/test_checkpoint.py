"""Safetensors files read and patched by hand, against the safetensors library."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.errors import InputError
from prox24_export.models.checkpoint import TYPES, Checkpoint
from prox24_export.passes.graph.arrays import as_array
from prox24_export.passes.graph.lazy_tensors import LazyTensors
from prox24_export.stages.weight_store import WeightStore

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    every = {f"of.{name}": (torch.randn(3, 4) * 4).to(dtype) for name, dtype in TYPES.items()}
    return every | {"experts": torch.randn(3, 4, 2), "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3)}


def saved(folder: Path) -> dict[str, Tensor]:
    """In two files, as large checkpoints are."""
    folder.mkdir()
    every = tensors()
    names = list(every)
    for number, part in enumerate((names[:5], names[5:])):
        safetensors.save_file({name: every[name] for name in part}, folder / f"model-{number}.safetensors")
    return every


def test_every_type_is_read_as_it_was_written(tmp_path: Path) -> None:
    every = saved(tmp_path / "in")
    checkpoint = Checkpoint(tmp_path / "in")
    assert checkpoint.places.keys() == every.keys()
    for name, tensor in every.items():
        read = checkpoint.read(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor)


def test_a_copy_has_the_new_tensors_and_every_other_byte(tmp_path: Path) -> None:
    every = saved(tmp_path / "in")
    new = {"of.F32": torch.zeros(3, 4), "of.BF16": torch.ones(3, 4, dtype=torch.bfloat16)}
    weights = {name: as_array(tensor) for name, tensor in new.items()} | {"experts[1]": np.ones((4, 2), np.float32)}
    (tmp_path / "out").mkdir()
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    Checkpoint(tmp_path / "in").write(tmp_path / "out", weights)
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    experts = every["experts"].clone()
    experts[1] = 1
    for path in (tmp_path / "out").iterdir():
        for name, tensor in safetensors.load_file(path).items():
            assert torch.equal(tensor, (every | new | {"experts": experts})[name])


@pytest.mark.parametrize("content", [b"", b"nonsense", (1 << 40).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0[]"])
def test_torn_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="Expected a safetensors file"):
        _ = Checkpoint(tmp_path).places


def test_solved_weights_wait_on_disk_in_their_own_type(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    every = {name: as_array(tensor) for name, tensor in tensors().items() if tensor.numel()}
    for name, array in every.items():
        store[name] = np.zeros_like(array)
        store[name] = array  # a second time
    assert list(store) == list(every)
    assert "of.F32" in store
    assert "other" not in store
    for name, array in every.items():
        assert store[name].dtype == array.dtype
        assert store[name].tobytes() == array.tobytes()
    del store["scalar"]
    assert len(store) == len(every) - 1 == len(list(tmp_path.rglob("*.bin")))


def test_lazy_tensors_are_read_when_asked_for_and_shared_while_held() -> None:
    read: list[str] = []

    def zeros(name: str) -> Tensor:
        read.append(name)
        return torch.zeros(2)

    lazy = LazyTensors(zeros, ("a", "b"))
    assert (list(lazy), len(lazy), "a" in lazy, "c" in lazy) == (["a", "b"], 2, True, False)
    assert not read
    first = lazy["a"]
    assert lazy["a"] is first
    del first
    _ = lazy["a"]
    assert read == ["a", "a"]
    with pytest.raises(KeyError):
        _ = lazy["c"]


def test_other_files_beside_the_checkpoint_are_not_read(tmp_path: Path) -> None:
    safetensors.save_file({"w": torch.ones(4)}, tmp_path / "model.safetensors")
    safetensors.save_file({"w": torch.zeros(4)}, tmp_path / "model_ema.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.read("w").tolist() == [1, 1, 1, 1]
    (tmp_path / "model.safetensors").rename(tmp_path / "shard.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "shard.safetensors"}}', encoding="utf-8"
    )
    assert [file.name for file in Checkpoint(tmp_path).files] == ["shard.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="Expected an index of the safetensors files"):
        _ = Checkpoint(tmp_path).files


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    safetensors.save_file({"w": torch.ones(64)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-4])
    with pytest.raises(InputError, match="the file ends within w"):
        _ = Checkpoint(tmp_path).places


def with_header(folder: Path, header: Any, data: bytes = bytes(16), name: str = "model.safetensors") -> Path:
    """A file with this header, which is JSON already or will be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder / name


def entry(begin: Any, end: Any, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "b begins at byte"),
        ({"a": entry(0, 8)}, "8 bytes at its end belong to no tensor"),
        ({"a": entry(8, 16)}, "a begins at byte"),
        ({"a": entry(-8, 0)}, r"a has the shape \[2\] and the offsets \[-8, 0\]"),
        ({"a": entry(0, 8, [2.0])}, "a has the shape"),
        ({"a": entry(0, 8, [-2])}, "a has the shape"),
        ({"a": entry(0, 8, [True, 2])}, "a has the shape"),
        ({"a": entry(0, 8, 2)}, "a has the shape"),
        ({"a": entry(0, 8, [1 << 40, 1 << 40])}, "a takes"),
        ({"a": entry(0, 8, dtype="F3")}, "is not known here"),
        ({"a": entry(0, 8, dtype=[])}, "is not known here"),
        ({"a": {}}, "a has no dtype"),
        ([], "its header is a list"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"[" * 100_000, "too many values within each other"),
    ],
)
def test_headers_that_do_not_say_where_every_byte_belongs_are_refused(header: Any, said: str, tmp_path: Path) -> None:
    with_header(tmp_path, header)
    with pytest.raises(InputError, match=f"{said}.*Expected a safetensors file"):
        _ = Checkpoint(tmp_path).places


def test_a_tensor_stands_in_one_file_and_files_beside_the_index(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        with_header(tmp_path / "model", {"w": entry(0, 16, [4])}, name=name)
    with pytest.raises(InputError, match=r"b\.safetensors and a\.safetensors both hold the tensor w"):
        _ = Checkpoint(tmp_path / "model").places
    index = tmp_path / "model" / "model.safetensors.index.json"
    for name in ("../a.safetensors", "/a.safetensors", "", "deep/a.safetensors", ".."):
        index.write_text(json.dumps({"weight_map": {"w": name}}), encoding="utf-8")
        with pytest.raises(InputError, match=r"which is not beside it|cannot be read"):
            _ = Checkpoint(tmp_path / "model").files
    index.write_text(json.dumps({"weight_map": {"w": "c.safetensors"}}), encoding="utf-8")
    with pytest.raises(InputError, match="no such checkpoint"):
        _ = Checkpoint(tmp_path / "model").places


VALUES = st.one_of(
    st.none(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=3), st.lists(st.integers(-3, 20), max_size=3)
)
ENTRIES = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), st.one_of(VALUES, st.just("F32")))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.one_of(VALUES, st.dictionaries(st.text(max_size=2), st.one_of(ENTRIES, VALUES))), cut=st.integers(0, 40)
)
def test_any_header_is_read_or_refused(header: Any, cut: int, tmp_path: Path) -> None:
    file = with_header(tmp_path, header)
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) - cut])
    with contextlib.suppress(InputError):
        size = file.stat().st_size
        assert all(0 < place.begin <= place.end <= size for place in Checkpoint(tmp_path).places.values())
