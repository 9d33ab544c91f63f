"""Files of arrays by strangers: nothing is read that is not there or does not fit."""

import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prox24_export.data import array_files
from prox24_export.data.array_files import read_arrays
from prox24_export.errors import InputError
from tests.graphs import normal


def header(shape: str, dtype: str = "<f4") -> bytes:
    """An array of nothing that says that it has this shape."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    arrays: Any = {
        "x": normal(4, 3),
        "y": np.asfortranarray(normal(2, 5)),
        "none": np.zeros((0, 3)),
        "one": np.array(7),
    }
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    np.save(tmp_path / "x.npy", arrays["x"])
    for name in ("plain.npz", "small.npz"):
        found = read_arrays(tmp_path / name, "--inputs")
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert np.array_equal(read_arrays(tmp_path / "x.npy", "--inputs")["x.npy"], arrays["x"])


def test_few_bytes_that_stand_for_many_zeros_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((200_000, 8), np.float32))
    with pytest.raises(InputError, match=r"bomb\.npz holds \d,\d+ bytes, and its arrays would take 104 MB"):
        read_arrays(tmp_path / "bomb.npz", "--inputs")
    np.savez(tmp_path / "whole.npz", x=np.zeros((200_000, 8), np.float32))
    assert read_arrays(tmp_path / "whole.npz", "--inputs")["x"].shape == (200_000, 8)


def test_a_file_that_unpacks_to_more_than_is_free_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((4, 1 << 20), np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 15
    assert np.asarray(read_arrays(tmp_path / "bomb.npz", "--inputs")["x"]).nbytes == 1 << 24
    monkeypatch.setattr(array_files, "find_free", lambda: 1 << 23)
    with pytest.raises(InputError, match=r"--inputs .*bomb\.npz takes 16 MB of memory, and 8 MB are free"):
        read_arrays(tmp_path / "bomb.npz", "--inputs")


@pytest.mark.parametrize("shape", ["(1000000000, 1000000000)", "(-1, 4)", "(1 << 70,)", "(1e9,)", "(True,)", "5"])
def test_headers_that_say_more_than_there_is_are_refused(shape: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", header(shape))
    (tmp_path / "d.npy").write_bytes(header(shape))
    for name in ("d.npz", "d.npy"):
        with pytest.raises(InputError, match="cannot be read"):
            read_arrays(tmp_path / name, "--inputs")


@pytest.mark.parametrize("dtype", ["|V0", "<U0", "|S0"])
def test_entries_of_no_bytes_are_not_any_number(dtype: str, tmp_path: Path) -> None:
    (tmp_path / "d.npy").write_bytes(header("(16, 2147483647)", dtype))
    with pytest.raises(InputError, match=r"\[16, 2147483647\] is larger than the bytes that are there"):
        read_arrays(tmp_path / "d.npy", "--inputs")


def test_rows_of_nothing_and_what_is_no_array_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_bytes(header("(1000000000000000, 0)"))
    with pytest.raises(InputError, match="MB are free"):
        read_arrays(tmp_path / "rows.npy", "--inputs")
    with zipfile.ZipFile(tmp_path / "text.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", bytes(1 << 24))
    with pytest.raises(InputError, match="cannot be read"):
        read_arrays(tmp_path / "text.npz", "--inputs")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.npz")
    with pytest.raises(InputError, match="is a named pipe"):
        read_arrays(tmp_path / "d.npz", "--inputs")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), packed=st.booleans())
def test_bytes_that_fell_over_are_refused_or_read(places: list[tuple[int, int]], packed: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, x=np.arange(6.0))
    content = bytearray(buffer.getvalue())
    for place, value in places:
        content[place % len(content)] = value
    (tmp_path / "d.npz").write_bytes(content)
    try:
        found = read_arrays(tmp_path / "d.npz", "--inputs")
    except InputError:
        return
    assert sum(np.asarray(array).nbytes for array in found.values()) <= 48


def test_a_header_that_python_warns_of_warns_nobody(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(header("(1,)", "\\\x1b[2J"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match="cannot be read"):
            read_arrays(tmp_path / "x.npy", "--inputs")
    assert told == []
