"""Datasets on disk: columns by name, pictures, texts, labels, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data.disk_datasets import is_saved_dataset
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.preprocessing import PictureOptions
from prox24_export.data.sample_list import SampleList
from prox24_export.data.samples import read_samples
from prox24_export.errors import UnavailableError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import PAIR, X, one, refused
from tests.graphs import normal

TOKENS = one(("N", "T"), np.int64)


@pytest.fixture
def datasets() -> Any:
    found = pytest.importorskip("datasets", reason="datasets is not installed")
    found.disable_progress_bars()
    return found


def saved(datasets: Any, folder: Path, columns: Any, **more: Any) -> Path:
    datasets.Dataset.from_dict(columns, **more).save_to_disk(folder / "saved")
    return folder / "saved"


def taken(path: Path, inputs: Any, **more: Any) -> SampleList:
    return read_samples(path, inputs, "--calibration", **more)


def test_columns_are_taken_by_the_names_of_the_inputs(datasets: Any, tmp_path: Path) -> None:
    a = normal(6, 3)
    columns = {"b": list(range(6)), "a": a.tolist(), "label": [3, 1, 2, 0, 0, 1], "other": ["x"] * 6}
    found = taken(saved(datasets, tmp_path, columns), PAIR)
    np.testing.assert_array_equal(np.concatenate([sample.feeds["a"] for sample in found]), a)
    assert [sample.feeds["b"].tolist() for sample in found] == [[index] for index in range(6)]
    assert [sample.labels.tolist() for sample in found if sample.labels is not None] == [[3], [1], [2], [0], [0], [1]]


def test_rows_of_other_shapes_are_told(datasets: Any, tmp_path: Path) -> None:
    path = saved(datasets, tmp_path, {"x": [[1, 2], [3, 4], [5]]})
    with refused(
        "rows 2 to 2 of column 'x' have shapes [(1,)], and the first has (2,). Expected one shape: pad or cut the rows."
    ):
        _ = [sample.feeds for sample in taken(path, TOKENS)]


def test_a_column_of_pictures_is_decoded_and_one_of_texts_goes_through_the_tokenizer(
    datasets: Any, tmp_path: Path
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    images = [image_module.new("RGB", (6, 4), (index, 0, 0)) for index in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    path = saved(datasets, tmp_path, {"image": images, "label": [0, 1, 0]}, features=features)
    reader = PictureReader(PictureOptions(preset="0-1"))
    found = taken(path, one(("N", 3, "H", "W")), pictures=reader)
    assert [round(255 * float(sample.feeds["x"][0, 0, 0, 0])) for sample in found] == [0, 1, 2]
    assert [int(sample.labels[0]) for sample in found if sample.labels is not None] == [0, 1, 0]
    with refused("nothing says how they become numbers"):
        taken(path, one(("N", 3, "H", "W")))

    def tokenize(words: Path | str, name: str) -> Array:
        assert name == f"--calibration {texts}"
        return np.array([[len(str(words))]])

    texts = saved(datasets, tmp_path / "texts", {"text": ["ab", "cde"]})
    assert taken(texts, TOKENS, tokenize=tokenize)[0].feeds["x"].tolist() == [[7]]


def test_what_is_no_suitable_dataset_is_told(datasets: Any, tmp_path: Path) -> None:
    path = saved(datasets, tmp_path, {"y": [1.0], "name": ["a"]})
    with refused("has columns y, name. Expected columns x, one of pictures, or one of texts: rename them"):
        taken(path, X)
    with refused("column 'name' holds no numbers."):
        taken(path, (Input("name", np.dtype(np.float32), ("N",)),))
    splits = {"train": datasets.Dataset.from_dict({"x": [1.0]}), "test": datasets.Dataset.from_dict({"x": [1.0]})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    with refused(f"holds splits: test, train. Name one of them, such as {tmp_path / 'splits' / 'test'}."):
        taken(tmp_path / "splits", X)
    (path / "state.json").write_text("{}")
    with refused("cannot be read: "):
        taken(path, X)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state.json").write_text("{}")
    assert is_saved_dataset(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnavailableError, match=r"pip install 'prox24-export\[datasets\]'"):
        taken(tmp_path, X)
