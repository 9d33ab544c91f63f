"""Samples that came together, in one file or item: their checked arrays, of which single samples are read later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prox24_export.data.checked_arrays import AnyArray, cast_array, count_samples, expect_shape, is_whole
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Column:
    """The array of one input, or the labels, for all samples of a group.

    Attributes:
        array: The array; its rows are read when a sample is.
        dtype: The dtype that samples have.
        rows: The rows of one sample; None where every sample has the whole array.
        is_scalar: Whether a row is handed out without axes.
    """

    array: AnyArray
    dtype: np.dtype[Any]
    rows: int | None
    is_scalar: bool = False

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        if self.rows is None:
            return self.array.shape
        return () if self.is_scalar else (self.rows, *self.array.shape[1:])

    def read(self, index: int) -> Array:
        """Reads the array of one sample."""
        if self.rows is None:
            return np.asarray(self.array)
        piece = self.array[index * self.rows : (index + 1) * self.rows]
        with np.errstate(over="ignore"):
            piece = piece.astype(self.dtype, copy=False)
        return piece.reshape(()) if self.is_scalar else piece


@dataclass(frozen=True, eq=False)
class SampleGroup:
    """The samples of one file or item.

    Attributes:
        columns: The arrays by input name.
        labels: The labels; None where there are none.
        count: The number of samples.
    """

    columns: Mapping[str, Column]
    labels: Column | None
    count: int


def make_group(arrays: Mapping[str, AnyArray], inputs: Sequence[Input], where: str) -> SampleGroup:
    """Makes a group of the arrays of a file or item.

    Args:
        arrays: The arrays by name; one called `labels` is none of the inputs' unless an input has that name.
        inputs: The inputs of the model.
        where: The words that say where the arrays are, for messages.

    Raises:
        InputError: An array fits no input, has the wrong dtype or shape, or holds NaN or Inf; or the arrays hold
            different numbers of samples.
    """
    named = {value.name for value in inputs}
    labels = arrays.get(LABELS) if LABELS not in named else None
    given = {name for name in arrays if name != LABELS or name in named}
    if given != named:
        raise InputError(
            f"{where} has arrays {sorted(given)}. Expected one for each input: {sorted(named)} (and, for evaluation, "
            f"{LABELS!r})."
        )
    feeds = {value.name: cast_array(arrays[value.name], value, where) for value in inputs}
    for value in inputs:
        expect_shape(feeds[value.name], value, where)
    count = count_samples(feeds, inputs, where)
    labels = np.atleast_1d(np.asarray(labels)) if labels is not None and not labels.ndim else labels
    if count is not None and labels is not None and (len(labels) % count if count else len(labels)):
        raise InputError(f"{where}: {LABELS!r} has {len(labels)} entries for {count} samples.")
    columns = {value.name: _make_column(feeds[value.name], value, count) for value in inputs}
    column = None if labels is None else Column(labels, labels.dtype, _share_rows(labels, count))
    return SampleGroup(columns, column, 1 if count is None else count)


def _make_column(array: AnyArray, value: Input, count: int | None) -> Column:
    if count is None or not array.ndim or is_whole(array, value):  # each sample reads the same array
        whole = np.asarray(array).astype(value.dtype, copy=False)
        return Column(whole, value.dtype, None)
    return Column(array, value.dtype, _share_rows(array, count), is_scalar=value.shape == ())


def _share_rows(array: AnyArray, count: int | None) -> int | None:
    """The rows of an array that belong to one of `count` samples; None where they are one sample together."""
    return None if count is None else len(array) // max(1, count)
