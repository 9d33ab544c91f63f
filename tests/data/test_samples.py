"""Where samples come from: files, folders, functions and iterables, and which of them are refused."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data import items
from prox24_export.data import samples as data
from prox24_export.data.batches import join_samples
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import PAIR, X, one, read, refused, shapes
from tests.graphs import normal


def test_arrays_of_an_npz_go_to_the_inputs_of_their_names_row_by_row(tmp_path: Path) -> None:
    a, b = normal(5, 3), np.arange(5)
    np.savez(tmp_path / "d.npz", b=b, a=a)
    found = read(tmp_path / "d.npz", PAIR)
    assert [sample.labels for sample in found] == [None] * 5
    np.testing.assert_array_equal(np.concatenate([sample.feeds["a"] for sample in found]), a)
    np.testing.assert_array_equal(np.concatenate([sample.feeds["b"] for sample in found]), b)
    assert shapes(found, "a") == [(1, 3)] * 5


def test_one_array_serves_a_one_input_model_under_any_name_and_labels_are_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", features=normal(4, 3), labels=np.array([3, 1, 4, 1]))
    found = read(tmp_path / "d.npz")
    assert shapes(found) == [(1, 3)] * 4
    assert [int(sample.labels[0]) for sample in found if sample.labels is not None] == [3, 1, 4, 1]


def test_labels_alone_are_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", labels=normal(4, 3))
    with refused("has arrays []. Expected one for each input: ['x']"):
        read(tmp_path / "d.npz")


def test_labels_are_an_input_where_the_model_says_so(tmp_path: Path) -> None:
    inputs = (Input("labels", np.dtype(np.int64), ("N",)),)
    np.savez(tmp_path / "d.npz", labels=np.arange(3))
    assert [(int(s.feeds["labels"][0]), s.labels) for s in read(tmp_path / "d.npz", inputs)] == [
        *((0, None), (1, None), (2, None))
    ]


def test_an_npy_file_serves_a_one_input_model_only(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", normal(4, 3))
    assert shapes(read(tmp_path / "d.npy")) == [(1, 3)] * 4
    with refused("has arrays ['d.npy']. Expected one for each input: ['a', 'b']"):
        read(tmp_path / "d.npy", PAIR)


def test_the_content_of_a_file_counts_not_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=normal(2, 3))
    (tmp_path / "d.npz").rename(tmp_path / "d.dat")
    assert len(read(tmp_path / "d.dat")) == 2


def test_a_folder_is_read_in_the_order_of_its_names_with_lengths_of_their_own(tmp_path: Path) -> None:
    for name, length in (("b", 7), ("a", 5)):
        np.savez(tmp_path / f"{name}.npz", x=normal(1, length, 3))
    (tmp_path / "notes.txt").touch()
    found = read(tmp_path, one(("N", "T", 3)))
    assert shapes(found) == [(1, 5, 3), (1, 7, 3)]
    assert [feeds["x"].shape for feeds, _ in join_samples(found, one(("N", "T", 3)), 32)] == [(1, 5, 3), (1, 7, 3)]


def test_a_folder_without_npz_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with refused(f"{tmp_path} is a folder without .npz files and pictures"):
        read(tmp_path)
    with refused(f"--calibration {tmp_path / 'none'} does not exist. Expected an .npz, .npy, .txt or .jsonl file"):
        read(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_file_that_is_no_numpy_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with refused("cannot be read"):
        read(tmp_path / "d.npz")


def test_pickled_objects_are_refused_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    objects = np.array([Evil()], dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "d.npz", x=objects)
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Evil()))
    for name, said in (("d.npy", "holds pickled"), ("d.npz", "holds pickled"), ("p.npz", "magic string")):
        with pytest.raises(InputError, match=f"cannot be read: .*{said}"):
            read(tmp_path / name)
    assert not marker.exists()


def test_an_iterable_of_dictionaries_is_read_lists_included() -> None:
    found = read([{"x": normal(2, 3)}, {"x": [[1.0, 2.0, 3.0]]}])
    assert shapes(found) == [(1, 3)] * 3
    assert found[2].feeds["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (
            [(normal(2, 3), normal(2, 3))],
            "batch: item 0 is a tuple. Expected a dictionary of arrays by input, or 1 arr",
        ),
        (["text"], "batch: item 0 is a str. Expected a dictionary of arrays by input"),
        ([{"x": normal(1, 3)}, {"y": normal(1, 3)}], "--calibration batch 1 has arrays ['y']"),
        ([{"x": [[1.0], [1.0, 2.0]]}], "--calibration batch 0: 'x' is no array"),
        ([], "holds no sample"),
    ],
)
def test_other_items_are_refused_by_their_number(items: list[Any], said: str) -> None:
    with refused(said):
        read(items)


def module(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"import numpy as np\n{body}", "utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, from which no module stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_function_is_imported_from_the_current_folder_first(here: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    module(elsewhere, "feeding", "def feeds(): return []")
    module(here, "feeding", "def feeds():\n    import helping\n    yield {'x': helping.X}")
    module(here, "helping", "X = np.ones((2, 3), np.float32)")
    sys.path.insert(0, str(elsewhere))
    before = list(sys.path)
    assert shapes(read("feeding:feeds")) == [(1, 3)] * 2
    assert sys.path == before


def test_what_a_function_prints_does_not_reach_stdout(here: Path, capfd: Any) -> None:
    module(here, "talking", "def feeds():\n    print('loading')\n    yield {'x': np.ones((1, 3))}")
    assert len(read("talking:feeds")) == 1
    assert capfd.readouterr() == ("", "loading\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "AttributeError: module 'failing' has no attribute 'feeds'"),
        ("def feeds():\n    yield {'x': np.ones((1, 3))}\n    raise RuntimeError('no disk')", "RuntimeError: no disk"),
        ("def feeds(): return 5", "TypeError: 'int' object is not iterable"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("def feeds(needed): return []", "TypeError: feeds() missing 1 required positional argument"),
        ("syntax error", "SyntaxError"),
    ],
)
def test_a_function_that_fails_is_refused_with_its_own_error(body: str, said: str, here: Path) -> None:
    module(here, "failing", body)
    with refused(f"--calibration failing:feeds failed: {said}"):
        read("failing:feeds")


ENDLESS = """
TAKEN = []
def feeds():
    print('begun')
    while True:
        TAKEN.append(1)
        yield {'x': np.ones((2, 3), np.float32)}
"""


def test_a_function_without_end_gives_the_first_samples(here: Path) -> None:
    module(here, "endless", ENDLESS)
    found = data.read_samples("endless:feeds", X, "--calibration", limit=5)
    assert shapes(found) == [(1, 3)] * 5
    assert len(vars(sys.modules["endless"])["TAKEN"]) == 3  # as many items of two samples as five need
    assert len(data.read_samples(iter([{"x": normal(2, 3)}] * 9), X, "--calibration", limit=5)) == 5
    np.savez(here / "d.npz", x=normal(9, 3))
    assert len(data.read_samples(here / "d.npz", X, "--calibration", limit=5)) == 9  # drawn from all of them later


def test_a_function_without_end_stops_where_memory_does(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(here, "endless", ENDLESS)
    monkeypatch.setattr(items, "find_free", lambda: 1 << 22)
    with pytest.raises(
        InputError, match=r"--calibration endless:feeds: [\d,]+ items take 2.0 MB, and 4.0 MB of memory"
    ):
        read("endless:feeds")


def test_names_that_no_file_has_are_refused() -> None:
    for name in ("a\0b.npz", "a" * 5000):
        with pytest.raises(InputError, match=r"NUL byte|longer than names"):
            read(name)
