"""Samples: how they are read from arrays, folders and functions, and split into parts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export import user_code
from prox24_export.data import text
from prox24_export.data.array_files import read_arrays
from prox24_export.data.checked_arrays import AnyArray
from prox24_export.data.disk_datasets import is_saved_dataset, read_dataset
from prox24_export.data.items import read_items
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.sample_groups import LABELS, SampleGroup, make_group
from prox24_export.data.sample_list import Sample, SampleList, select_samples
from prox24_export.data.sources import YIELDS, StartedFunction, is_function, is_picture_folder, list_files
from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

Tokenize = Callable[[Path | str, str], Array]
Source = str | Path | Iterable[Any]

PART = 5  # report is a fifth of all samples, choice at most a fifth of the rest


@dataclass(frozen=True)
class Parts:
    """The samples, by what they may be used for; no sample is in two parts.

    Attributes:
        fit: The samples that masks and weights are fitted to.
        choice: The samples by which the program chooses between candidates.
        report: The samples that the reported figures are measured on.
    """

    fit: Sequence[Sample]
    choice: Sequence[Sample]
    report: Sequence[Sample]


def read_samples(
    source: Source,
    inputs: Sequence[Input],
    option: str,
    tokenize: Tokenize | None = None,
    limit: int | None = None,
    *,
    pictures: PictureReader | None = None,
) -> SampleList:
    """Reads samples from files, a folder of `.npz` or of pictures, `module:function`, or an iterable of batches.

    A batch is a feed dictionary, or arrays or tensors in the order of the inputs.

    Args:
        source: Where the samples come from.
        inputs: The inputs of the model.
        option: How messages name the source, e.g. `--calibration`.
        tokenize: Turns a text, or a file of it, into token ids [rows, T], given how messages name it; None for a model
            that reads no text.
        limit: The most samples to take from a function or an iterable, which need not end; None for all. Files are
            always read whole.
        pictures: Reads pictures; None where nothing is known of how they become inputs.

    Raises:
        InputError: The source is missing or unreadable, does not fit in memory, or an array fits no input, has the
            wrong dtype or shape, or holds NaN or Inf.
    """

    def collect(items: Iterable[Any], where: str) -> list[SampleGroup]:
        groups: list[SampleGroup] = []
        for place, arrays in read_items(items, where, option, inputs):
            groups.append(make_group(arrays, inputs, f"{option} {place}"))
            if limit is not None and sum(group.count for group in groups) >= limit:
                break
        return groups

    is_whole = False
    if isinstance(source, StartedFunction):
        started = source
        groups = user_code.call_function(started.spec, option, YIELDS, lambda _: collect(started, started.spec))
    elif not isinstance(source, (str, Path)):
        groups = collect(source, "batch")
    elif is_function(source, option):
        spec = str(source)
        groups = user_code.call_function(spec, option, YIELDS, lambda function: collect(function(), spec))
    else:
        is_whole = True
        read = _read_files(Path(source), option, inputs, tokenize, pictures or PictureReader())
        groups = [make_group(arrays, inputs, f"{option} {where}") for where, arrays in read]
    samples = SampleList(groups)
    if not samples:
        raise InputError(f"{option} {source} holds no sample. Expected at least one.")
    return samples if is_whole else samples[:limit]


def split_samples(samples: Sequence[Sample], *, with_report: bool, seed: int, limit: int | None) -> Parts:
    """Draws at most `limit` samples and divides them into parts; the order within a part follows the source.

    Args:
        samples: All samples.
        with_report: Whether a fifth is set aside for the report, because no separate evaluation data are given.
        seed: The seed of the draw.
        limit: The most samples to use (`--samples`); None for all.
    """
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    report = max(1, len(order) // PART) if with_report and len(order) > 1 else 0
    choice = (len(order) - report) // PART
    cuts = np.split(order, [report, report + choice])
    chosen = [select_samples(samples, np.sort(cut)) for cut in cuts]
    return Parts(fit=chosen[2], choice=chosen[1], report=chosen[0])


def _read_files(
    path: Path,
    option: str,
    inputs: Sequence[Input],
    tokenize: Tokenize | None,
    pictures: PictureReader,
) -> Iterator[tuple[str, Mapping[str, AnyArray]]]:
    """Yields the arrays of every file, or those of a folder of pictures, with words that say where they are."""
    if is_saved_dataset(path):
        yield str(path), read_dataset(path, option, inputs, pictures, tokenize)
        return
    if is_picture_folder(path):
        yield str(path), pictures.read_folder(path, option, inputs)
        return
    for file in list_files(path, option):
        if file.suffix.lower() in text.ENDINGS and tokenize is not None:
            yield str(file), text.name_token_rows(tokenize(file, option), inputs, f"{option} {file}")
        else:
            yield str(file), pictures.convert(_load_arrays(file, option, inputs), inputs, f"{option} {file}")


def _load_arrays(path: Path, option: str, inputs: Sequence[Input]) -> Mapping[str, AnyArray]:
    arrays: dict[str, AnyArray] = {**read_arrays(path, option)}
    named = {value.name for value in inputs}
    data = [name for name in arrays if name != LABELS or LABELS in named]
    if len(inputs) == 1 and len(data) == 1:  # one array for a one-input model: its name does not matter
        arrays[inputs[0].name] = arrays.pop(data[0])
    return arrays
