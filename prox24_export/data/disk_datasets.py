"""Datasets that the library `datasets` has saved to disk: columns of arrays, of pictures, or of texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prox24_export.data.checked_arrays import AnyArray
from prox24_export.data.lazy_rows import LazyRows
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.pictures import decode_picture, measure_picture
from prox24_export.data.sample_groups import LABELS
from prox24_export.data.text import FIELDS, name_token_rows
from prox24_export.errors import InputError, UnavailableError, describe_missing, first_line
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from prox24_export.process.offline import stay_offline

if TYPE_CHECKING:
    from PIL.Image import Image

STATE, SPLITS = "state.json", "dataset_dict.json"
LABEL = "label"
PICTURES = "Image"  # the name of the type of a column of pictures
WANTED = "a folder that save_to_disk of datasets has written"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder holds a dataset, or splits of one."""
    return (path / STATE).is_file() or (path / SPLITS).is_file()


@dataclass(frozen=True, eq=False)
class DatasetColumn(LazyRows):
    """A column of numbers, whose rows are read when they are asked for.

    Attributes:
        rows: The dataset with this column alone, which gives arrays.
        name: The name of the column.
        where: How messages name the dataset.
        shape: The shape of all rows together.
        dtype: The dtype of the values.
    """

    rows: Any
    name: str
    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice) -> Array:
        """Reads some rows.

        Raises:
            InputError: They have other shapes than the first.
        """
        found = self.rows[rows][self.name]
        indices = range(*rows.indices(len(self)))
        shapes = {np.shape(row) for row in found}
        if shapes - {self.shape[1:]}:
            raise InputError(
                f"{self.where}: rows {indices.start} to {indices.stop - 1} of column {self.name!r} have shapes "
                f"{sorted(shapes)}, and the first has {self.shape[1:]}. Expected one shape: pad or cut the rows."
            )
        return np.asarray(found, self.dtype).reshape(len(indices), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Reads the whole column, as NumPy asks for it."""
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class DatasetPictures:
    """A column of pictures, which are decoded one by one.

    Attributes:
        rows: The dataset with this column alone, whose pictures are still encoded.
        column: The name of the column.
        where: How messages name the dataset.
    """

    rows: Any
    column: str
    where: str

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """What messages call a picture."""
        return f"{self.where}, row {index}"

    def find_size(self, index: int) -> tuple[int, int]:
        """Finds the height and width of a picture as it is seen.

        Raises:
            InputError: It is no picture, or has more than 8 bits a channel.
        """
        return measure_picture(self._read(index), self.name(index))

    def open(self, index: int, mode: str) -> "Image":
        """Decodes a picture.

        Raises:
            InputError: It cannot be decoded.
        """
        return decode_picture(self._read(index), self.name(index), mode)

    def _read(self, index: int) -> Path | bytes:
        found = self.rows[index][self.column] or {}
        content: bytes | None = found.get("bytes")
        return Path(str(found.get("path"))) if content is None else content


def read_dataset(
    path: Path,
    option: str,
    inputs: Sequence[Input],
    pictures: PictureReader,
    tokenize: Callable[[str, str], Array] | None,
) -> dict[str, AnyArray]:
    """Reads the columns that a model takes.

    Args:
        path: The folder of the dataset, or of one split.
        option: How messages name it, e.g. `--calibration`.
        inputs: The inputs of the model. Columns of their names are taken, else one of pictures, else one of texts; a
            column `labels` or `label` holds the labels.
        pictures: Reads pictures.
        tokenize: Turns a text into token ids [rows, T]; None for a model that reads no text.

    Raises:
        InputError: It is no dataset, holds several splits, or no column that fits.
        UnavailableError: datasets is not installed.
    """
    where = f"{option} {path}"
    rows = _load(path, where)
    names = list(rows.column_names)
    arrays: Mapping[str, AnyArray]
    if all(value.name in names for value in inputs):
        arrays = {value.name: _read_column(rows, value.name, where) for value in inputs}
    elif (column := _find_pictures(rows)) is not None and len(inputs) == 1:
        encoded = rows.select_columns([column]).cast_column(column, type(rows.features[column])(decode=False))
        arrays = {inputs[0].name: pictures.read(DatasetPictures(encoded, column, where), inputs[0], where)}
    elif (column := next((name for name in FIELDS if name in names), None)) is not None and tokenize is not None:
        text = "\n\n".join(_read_texts(rows, column, where))
        return {**name_token_rows(tokenize(text, where), inputs, where)}
    else:
        wanted = ", ".join(value.name for value in inputs)
        raise InputError(
            f"{where} has columns {', '.join(names)}. Expected columns {wanted}, one of pictures, or one of texts: "
            "rename them with rename_column and save the dataset again."
        )
    labels = next((name for name in (LABELS, LABEL) if name in names and name not in arrays), None)
    return {**arrays} if labels is None else {**arrays, LABELS: _read_column(rows, labels, where)}


def _load(path: Path, where: str) -> Any:
    stay_offline()
    try:
        import datasets  # noqa: PLC0415 - an extra
    except Exception as error:  # a broken installation fails in many ways
        raise UnavailableError(
            f"{where} is a dataset, and {describe_missing(error, 'datasets')}. Install it with: "
            "pip install 'prox24-export[datasets]'."
        ) from error
    if (path / SPLITS).is_file():
        splits = sorted(inside.name for inside in path.iterdir() if (inside / STATE).is_file())
        first = path / min(splits, default="train")
        raise InputError(f"{where} holds splits: {', '.join(splits)}. Name one of them, such as {first}.")
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise InputError(f"{where} cannot be read: {first_line(error).rstrip('.')}. Expected {WANTED}.") from error


def _read_column(rows: Any, name: str, where: str) -> DatasetColumn:
    """Takes a column of numbers, of the shape of its first row."""
    column = rows.select_columns([name]).with_format("numpy")
    first = np.asarray(column[0][name]) if len(column) else np.zeros(0)
    if first.dtype == object or first.dtype.kind in "US":
        raise InputError(f"{where}: column {name!r} holds no numbers. Expected arrays of one shape.")
    return DatasetColumn(column, name, where, (len(column), *first.shape), first.dtype)


def _find_pictures(rows: Any) -> str | None:
    """Finds the first column of pictures."""
    return next((name for name, kind in rows.features.items() if type(kind).__name__ == PICTURES), None)


def _read_texts(rows: Any, column: str, where: str) -> Iterator[str]:
    for index, row in enumerate(rows.select_columns([column])):
        if not isinstance(row[column], str):
            raise InputError(f"{where}, row {index}: column {column!r} holds no text. Expected one a row.")
        yield row[column]
