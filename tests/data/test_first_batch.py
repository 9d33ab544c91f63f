"""A look at the first batch of a source: what it says of names and shapes, and that no sample is lost by it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data.first_batch import TOKENS, outline_first_batch
from tests.data.sample_sources import X, read, refused, shapes
from tests.graphs import normal

FUNCTION = """
import numpy as np
calls = []
def batches():
    calls.append(1)
    yield {{"x": np.full((1, 3), 5.0, np.float32)}}
    {then}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outlines(source: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    same, first = outline_first_batch(source, "--calibration")
    assert same is source
    return {name: (array.shape, array.dtype.name) for name, array in first.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_names_shapes_and_dtypes_come_from_headers(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "b.npz", x=normal(40, 3), ids=np.ones((40, 7), np.int32))
    save(tmp_path / "c.npz", other=normal(1))
    expected = {"x": ((40, 3), "float32"), "ids": ((40, 7), "int32")}
    assert outlines(tmp_path / "b.npz") == outlines(str(tmp_path)) == expected
    np.save(tmp_path / "x.npy", normal(6, 2))
    assert outlines(tmp_path / "x.npy") == {"x.npy": ((6, 2), "float32")}


def test_an_outline_holds_no_values(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.ones((1 << 12, 1 << 12), np.float32))
    _, first = outline_first_batch(tmp_path / "x.npz", "--calibration")
    assert not first["x"][0].any()
    assert first["x"].base.nbytes == 4


def test_a_text_stands_for_token_ids_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words", encoding="utf-8")
    assert outlines(tmp_path / "a.txt") == {"input_ids": (TOKENS, "int64")}


def test_a_function_is_called_once_and_still_yields_its_first_item(here: Path) -> None:
    (here / "first_looked_at.py").write_text(FUNCTION.format(then='yield {"x": np.zeros((2, 3), np.float32)}'))
    source, first = outline_first_batch("first_looked_at:batches", "--calibration")
    assert first["x"][0, 0] == 5
    samples = read(source)
    assert shapes(samples) == [(1, 3)] * 3
    assert samples[0].feeds["x"][0, 0] == 5
    assert str(source) == "first_looked_at:batches"
    import first_looked_at  # type: ignore[import-not-found] # noqa: PLC0415 - written above

    assert first_looked_at.calls == [1]


def test_a_function_that_fails_later_is_named_as_the_user_named_it(here: Path) -> None:
    (here / "failing_later.py").write_text(FUNCTION.format(then="raise OSError('the disk is gone')"))
    source, _ = outline_first_batch("failing_later:batches", "--calibration")
    with refused("--calibration failing_later:batches failed: OSError: the disk is gone"):
        read(source)


def test_an_iterable_that_can_be_read_once_is_read_once() -> None:
    def once() -> Iterator[Any]:
        yield from ({X[0].name: normal(1, 3)} for _ in range(3))

    source, first = outline_first_batch(once(), "--calibration")
    assert first["x"].shape == (1, 3)
    assert shapes(read(source)) == [(1, 3)] * 3


def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 nonsense")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name, said in (("none.npz", "does not exist"), ("torn.npz", "cannot be read"), ("objects.npy", "pickled")):
        with refused(said):
            outline_first_batch(tmp_path / name, "--calibration")
