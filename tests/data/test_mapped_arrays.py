"""Arrays that stay in their files: where they lie, what is read of them, and that a changed file is noticed."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data.array_files import read_arrays
from prox24_export.data.batches import JoinedBatches, join_samples, list_feeds
from prox24_export.data.mapped_arrays import MAPPED_AT_ONCE, MappedArray
from prox24_export.data.sample_list import SampleList
from prox24_export.data.samples import split_samples
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from tests.data.sample_sources import PAIR, X, one, read, refused
from tests.graphs import normal


def test_plain_arrays_stay_in_the_file_and_compressed_ones_and_single_values_do_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=normal(4, 3), one=np.array(7))
    np.savez_compressed(tmp_path / "packed.npz", x=normal(4, 3))
    np.save(tmp_path / "x.npy", normal(4, 3))
    plain = read_arrays(tmp_path / "plain.npz", "--calibration")
    assert [type(plain[name]) for name in ("x", "one")] == [MappedArray, np.ndarray]
    assert isinstance(read_arrays(tmp_path / "packed.npz", "--calibration")["x"], np.ndarray)
    assert isinstance(read_arrays(tmp_path / "x.npy", "--calibration")["x.npy"], MappedArray)


@pytest.mark.parametrize("name", ["x.npy", "a/very/long/name/of/an/entry.npy", "x1.npy", "x12.npy", "x123.npy"])
@pytest.mark.parametrize("array", [normal(5, 3), np.asfortranarray(normal(5, 3)), normal(5, 3).astype(">f8")])
def test_rows_are_copied_from_wherever_the_array_lies(name: str, array: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr(
            "before.npy",
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(117)
            + b"\n\1",
        )
        with archive.open(name, "w") as entry:
            np.lib.format.write_array(entry, array)
    found = read_arrays(tmp_path / "d.npz", "--calibration")[name.removesuffix(".npy")]
    assert isinstance(found, MappedArray)
    np.testing.assert_array_equal(found[1:3], array[1:3])
    assert found[1:3].flags.aligned
    assert found[1:3].flags.writeable
    assert found[4:9].shape == (1, 3)


def test_a_file_that_is_changed_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=normal(4, 3))
    found = read(path)
    os.truncate(path, 300)
    with refused("was changed while samples were read from it"):
        found[0]
    path.unlink()
    with refused("cannot be read any more: No such file"):
        found[0]


def test_the_same_samples_come_from_plain_and_compressed_files_and_from_memory(tmp_path: Path) -> None:
    arrays: Any = {"a": normal(70, 3), "b": np.arange(70, dtype=np.int32), "labels": np.arange(70) % 7}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    lists = [read(source, PAIR) for source in (tmp_path / "plain.npz", tmp_path / "packed.npz", [arrays])]
    joined = []
    for found in lists:
        parts = split_samples(found, with_report=True, seed=3, limit=60)
        joined.append(
            [pair for part in (parts.fit, parts.choice, parts.report) for pair in join_samples(part, PAIR, 8)]
        )
    for left, middle, right in zip(*joined, strict=True):
        for name in ("a", "b"):
            assert left[0][name].tobytes() == middle[0][name].tobytes() == right[0][name].tobytes()
            assert left[0][name].dtype == right[0][name].dtype
        assert left[1] is not None
        assert left[1].tolist() == np.asarray(right[1]).tolist()


def test_no_array_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "d.npz", a=normal(70, 3), b=np.arange(70), labels=np.arange(70))
    found = read(tmp_path / "d.npz", PAIR)
    rows: list[slice] = []
    taken = MappedArray.__getitem__

    def note(array: MappedArray, some: slice) -> Array:
        rows.append(some)
        return taken(array, some)

    monkeypatch.setattr(MappedArray, "__getitem__", note)
    parts = split_samples(found, with_report=True, seed=0, limit=None)
    assert isinstance(parts.fit, SampleList)
    feeds = list_feeds(parts.fit, PAIR, 8)
    batches = JoinedBatches(parts.report, PAIR, 8)
    assert len(batches) == 2
    assert sum(one.entries for one in feeds) == 4 * len(parts.fit)
    assert rows == []
    assert feeds[0]["a"].shape == (8, 3)
    assert len(rows) == 8
    assert batches[0][0] is batches[0][0]  # what a model gives for it can be remembered


def test_values_are_checked_in_every_piece_and_told_by_their_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.data.checked_arrays.PIECE", 6)
    x = normal(9, 3)
    x[7, 1] = np.nan
    np.savez(tmp_path / "d.npz", x=x)
    with refused("holds NaN or Inf, first in sample 7."):
        read(tmp_path / "d.npz")
    x[7, 1] = 7e4
    np.savez(tmp_path / "d.npz", x=x)
    with refused("is float32 and too large for float16, first in sample 7."):
        read(tmp_path / "d.npz", one(("N", 3), np.float16))
    ids = np.arange(27).reshape(9, 3)
    ids[8] = 300
    np.savez(tmp_path / "d.npz", x=ids)
    with refused("'x' is int64 from 0 to 300. Expected uint8"):
        read(tmp_path / "d.npz", one(("N", 3), np.uint8))


def test_a_mask_is_one_only_if_every_piece_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prox24_export.data.checked_arrays.PIECE", 6)
    mask = np.zeros((9, 3), np.float32)
    mask[2, 0] = -np.inf
    np.savez(tmp_path / "d.npz", x=mask)
    assert np.isneginf(read(tmp_path / "d.npz")[2].feeds["x"][0, 0])
    mask[8, 2] = 1.0
    np.savez(tmp_path / "d.npz", x=mask)
    with refused("holds NaN or Inf, first in sample 2."):
        read(tmp_path / "d.npz")


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_a_folder_of_many_files_takes_few_descriptors(tmp_path: Path) -> None:
    for index in range(200):
        np.savez(tmp_path / f"{index:03}.npz", x=np.full((1, 3), index, np.float32))
    before = count_descriptors()
    found = read(tmp_path)
    assert [float(sample.feeds["x"][0, 0]) for sample in found] == list(range(200))
    assert count_descriptors() <= before + MAPPED_AT_ONCE


def test_compressed_arrays_that_do_not_fit_are_told_how_to_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=normal(1000, 3))
    monkeypatch.setattr("prox24_export.data.array_files.find_free", lambda: 1 << 10)
    with pytest.raises(InputError, match=r"It is compressed, and so has to be read whole: write it with numpy\.savez"):
        read(tmp_path / "d.npz", X)
