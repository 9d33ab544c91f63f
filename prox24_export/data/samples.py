"""Samples: how they are read from arrays, folders and functions, split into parts, and joined into batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export import user_code
from prox24_export.data import text
from prox24_export.data.additive_masks import find_masked
from prox24_export.data.array_files import read_arrays
from prox24_export.data.items import read_items
from prox24_export.data.sources import YIELDS, StartedFunction, is_function, list_files
from prox24_export.errors import InputError
from prox24_export.passes.calibrate.streams import Batch
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input

Source = str | Path | Iterable[Any]

LABELS = "labels"
PART = 5  # report is a fifth of all samples, choice at most a fifth of the rest
BATCH = 32
BATCH_VALUES = 1 << 22  # input entries in one batch


@dataclass(frozen=True)
class Sample:
    """The smallest piece that the data divide into: one item, or as many items as a fixed batch axis wants.

    Attributes:
        feeds: The arrays by input name, in the dtypes that the model takes.
        labels: The true classes of the sample, or the reference of an output; None where they are not known.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None


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
    tokenize: Callable[[Path, str], Array] | None = None,
    limit: int | None = None,
) -> list[Sample]:
    """Reads samples from `.npz`, `.npy`, a folder of `.npz`, `.txt`, `module:function`, or an iterable of batches.

    A batch is a feed dictionary, or arrays or tensors in the order of the inputs.

    Args:
        source: Where the samples come from.
        inputs: The inputs of the model.
        option: How messages name the source, e.g. `--calibration`.
        tokenize: Turns a text file into token ids [rows, T], for a model whose only input they are; None for a model
            that reads no text.
        limit: The most samples to take from a function or an iterable, which need not end; None for all. Files are
            always read whole.

    Raises:
        InputError: The source is missing or unreadable, does not fit in memory, or an array fits no input, has the
            wrong dtype or shape, or holds NaN or Inf.
    """

    def collect(items: Iterable[Any], where: str) -> list[Sample]:
        samples: list[Sample] = []
        for place, arrays in read_items(items, where, option, inputs):
            samples += _make_samples(arrays, inputs, f"{option} {place}")
            if limit is not None and len(samples) >= limit:
                break
        return samples[:limit]

    if isinstance(source, StartedFunction):
        started = source
        samples = user_code.call_function(started.spec, option, YIELDS, lambda _: collect(started, started.spec))
    elif not isinstance(source, (str, Path)):
        samples = collect(source, "batch")
    elif is_function(source, option):
        spec = str(source)
        samples = user_code.call_function(spec, option, YIELDS, lambda function: collect(function(), spec))
    else:
        read = _read_files(Path(source), option, inputs, tokenize)
        samples = [sample for where, arrays in read for sample in _make_samples(arrays, inputs, f"{option} {where}")]
    if not samples:
        raise InputError(f"{option} {source} holds no sample. Expected at least one.")
    return samples


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
    chosen = [[samples[index] for index in sorted(cut)] for cut in cuts]
    return Parts(fit=chosen[2], choice=chosen[1], report=chosen[0])


def make_batches(samples: Sequence[Sample], inputs: Sequence[Input], part: str, size: int) -> list[Batch]:
    """Joins consecutive samples into batches of a calibration part, as `join_samples` does.

    Args:
        samples: The samples.
        inputs: The inputs of the model.
        part: What the batches are for: `fit` or `choice`.
        size: The most samples in a batch.
    """
    return [Batch(part, feeds) for feeds, _ in join_samples(samples, inputs, size)]


def join_samples(
    samples: Sequence[Sample], inputs: Sequence[Input], size: int
) -> Iterator[tuple[dict[str, Array], Array | None]]:
    """Joins consecutive samples of equal shape along the first axis, where the model leaves that axis dynamic.

    Args:
        samples: The samples.
        inputs: The inputs of the model.
        size: The most samples in a batch.

    Yields:
        The feeds of a batch by input name, and its labels; None unless every sample of the batch has labels.
    """
    size = size if can_join(inputs) else 1
    start = 0
    while start < len(samples):
        stop = start + 1
        while stop < min(len(samples), start + size) and _can_be_joined(samples[start], samples[stop]):
            stop += 1
        group = samples[start:stop]
        feeds = dict(group[0].feeds)  # scalars, and what all samples share, cannot be joined and never need to be
        if len(group) > 1:
            feeds = {name: np.concatenate([sample.feeds[name] for sample in group]) for name in feeds}
        labels = [sample.labels for sample in group if sample.labels is not None]
        yield feeds, np.concatenate(labels) if len(labels) == len(group) else None
        start = stop


def choose_batch_size(samples: Sequence[Sample]) -> int:
    """Chooses the number of samples in one call of the model: at most 32, fewer where inputs are large."""
    values = max(sum(array.size for array in sample.feeds.values()) for sample in samples)
    return max(1, min(BATCH, BATCH_VALUES // max(1, values)))


def can_join(inputs: Sequence[Input]) -> bool:
    """Whether the first axis of every input is dynamic."""
    return all(value.shape and not isinstance(value.shape[0], int) for value in inputs)


def _can_be_joined(left: Sample, right: Sample) -> bool:
    return all(left.feeds[name].shape[1:] == right.feeds[name].shape[1:] for name in left.feeds)


def _read_files(
    path: Path, option: str, inputs: Sequence[Input], tokenize: Callable[[Path, str], Array] | None
) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """Yields the arrays of every file, with words that say where they are."""
    for file in list_files(path, option):
        if file.suffix.lower() != text.ENDING or tokenize is None:
            yield str(file), _load_arrays(file, option, inputs)
        elif len(inputs) == 1:
            yield str(file), {inputs[0].name: tokenize(file, option)}
        else:
            names = ", ".join(value.name for value in inputs)
            raise InputError(
                f"{option} {file} is text, and the model takes {names}. Expected a model of token ids alone."
            )


def _load_arrays(path: Path, option: str, inputs: Sequence[Input]) -> Mapping[str, Array]:
    arrays = read_arrays(path, option)
    named = {value.name for value in inputs}
    data = [name for name in arrays if name != LABELS or LABELS in named]
    if len(inputs) == 1 and len(data) == 1:  # one array for a one-input model: its name does not matter
        arrays[inputs[0].name] = arrays.pop(data[0])
    return arrays


def _make_samples(arrays: Mapping[str, Array], inputs: Sequence[Input], where: str) -> list[Sample]:
    named = {value.name for value in inputs}
    labels = arrays.get(LABELS) if LABELS not in named else None
    given = {name for name in arrays if name != LABELS or name in named}
    if given != named:
        raise InputError(
            f"{where} has arrays {sorted(given)}. Expected one for each input: {sorted(named)} (and, for evaluation, "
            f"{LABELS!r})."
        )
    feeds = {value.name: _cast(arrays[value.name], value, where) for value in inputs}
    for value in inputs:
        _expect_shape(feeds[value.name], value, where)
    count = _count_samples(feeds, inputs, where)
    labels = None if labels is None else np.atleast_1d(labels)
    if count is None:
        return [Sample(feeds, labels)]
    if labels is not None and (len(labels) % count if count else len(labels)):
        raise InputError(f"{where}: {LABELS!r} has {len(labels)} entries for {count} samples.")
    return [
        Sample(
            {value.name: _take_item(feeds[value.name], value, index, count) for value in inputs},
            None if labels is None else _take_piece(labels, index, count),
        )
        for index in range(count)
    ]


def _expect_shape(array: Array, value: Input, where: str) -> None:
    """Checks the rank and all fixed axes; the first one runs over samples, in multiples of a fixed batch size."""
    shape = value.shape
    if shape is None or (shape == () and array.ndim <= 1):
        return
    if array.ndim != len(shape) or not matches_shape(array.shape[1:], shape[1:]):
        raise InputError(
            f"{where}: {value.name!r} has shape {list(array.shape)}. Expected {show_shape(shape)}, "
            "the first axis running over samples."
        )
    if isinstance(shape[0], int) and len(array) % shape[0]:
        raise InputError(
            f"{where}: {value.name!r} has {len(array)} items. Expected a multiple of the model's fixed batch "
            f"size {shape[0]}."
        )


def _count_samples(feeds: Mapping[str, Array], inputs: Sequence[Input], where: str) -> int | None:
    """Counts the samples that the arrays divide into along their first axis; None where they are one feed together.

    An array without axes is the same for every sample, and so is one of the shape that an input fixes on all its axes,
    beside inputs with a dynamic first axis. Other arrays of different lengths are one feed where the model allows it:
    its first axes have different names, or none.
    """
    counts = {_count_items(feeds[value.name], value) for value in inputs if feeds[value.name].ndim}
    if len(counts) == 1:
        return counts.pop()
    own = [value for value in inputs if feeds[value.name].ndim and not _is_whole(feeds[value.name], value)]
    own_counts = {_count_items(feeds[value.name], value) for value in own}
    if len(own_counts) == 1 and any(value.shape is None or can_join([value]) for value in own):
        return own_counts.pop()
    first_axes = {(value.shape[0] if value.shape else None, len(feeds[value.name])) for value in own}
    names = [name for name, _ in first_axes if name is not None]
    is_named_twice = len(set(names)) < len(names)  # with two lengths
    if not is_named_twice and all(matches_shape(feeds[value.name].shape, value.shape) for value in inputs):
        return None
    raise InputError(
        f"{where}: the arrays hold different numbers of samples: "
        + ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        + ". Expected the same number along the first axis of each; only an input of fixed shape, beside inputs with a "
        "dynamic first axis, may be given once for all samples."
    )


def _count_items(array: Array, value: Input) -> int:
    """Counts the samples in an array; each has as many rows as a fixed batch axis wants."""
    fixed = value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
    return len(array) // fixed


def _is_whole(array: Array, value: Input) -> bool:
    """Whether an array is all that an input of fixed shape takes, so that it cannot be divided."""
    return value.shape is not None and array.shape == value.shape


def matches_shape(got: tuple[int, ...], declared: tuple[int | str | None, ...] | None) -> bool:
    """Whether a shape has the declared rank and fixed sizes; None declares nothing."""
    if declared is None:
        return True
    pairs = zip(got, declared, strict=False)
    return len(got) == len(declared) and all(not isinstance(size, int) or size == here for here, size in pairs)


def _take_item(array: Array, value: Input, index: int, count: int) -> Array:
    if not array.ndim or _is_whole(array, value):
        return array
    piece = _take_piece(array, index, count)
    return piece.reshape(()) if value.shape == () else piece


def _take_piece(array: Array, index: int, count: int) -> Array:
    size = len(array) // count
    return array[index * size : (index + 1) * size]


def _cast(array: Array, value: Input, where: str) -> Array:
    """Converts an array to the input's dtype where its values keep their meaning.

    Raises:
        InputError: They do not, or there is a NaN or Inf among them, save −Inf in an additive mask.
    """
    where = f"{where}: {value.name!r}"
    masked = find_masked(array) if _is_float(array.dtype) else False
    wanted = "finite values, or −Inf in an additive mask; remove or repair that sample"
    _expect_finite(array, where, "holds NaN or Inf", wanted, masked)
    if array.dtype == value.dtype:
        return array
    both_float = _is_float(array.dtype) and _is_float(value.dtype)
    both_integer = array.dtype.kind in "iu" and value.dtype.kind in "iu"
    if both_integer and array.size:
        limits = np.iinfo(value.dtype)
        both_integer = bool(array.min() >= limits.min and array.max() <= limits.max)
    if not (both_float or both_integer):
        raise InputError(
            f"{where} is {_describe_values(array)}. Expected {value.dtype}, or a type whose values mean the same "
            "(float to float, integers in range); convert it as the model's preprocessing does."
        )
    with np.errstate(over="ignore"):
        cast = array.astype(value.dtype)
    said = f"is {array.dtype} and too large for {value.dtype}"
    _expect_finite(cast, where, said, "values in that type's range", masked)
    return cast


def _describe_values(array: Array) -> str:
    in_range = array.dtype.kind in "iu" and array.size
    return f"{array.dtype} from {array.min()} to {array.max()}" if in_range else str(array.dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _expect_finite(array: Array, where: str, found: str, wanted: str, masked: Any) -> None:
    if not _is_float(array.dtype) or bool((np.isfinite(array) | masked).all()):
        return
    first = np.argwhere(~(np.isfinite(array) | masked))[0]
    raise InputError(f"{where} {found}, first in sample {int(first[0]) if len(first) else 0}. Expected {wanted}.")


def show_shape(shape: tuple[int | str | None, ...]) -> str:
    """Writes a declared shape for messages, e.g. `[N, 3, ?]`; `?` stands for an axis without size and name."""
    return "[" + ", ".join(str(size or "?") for size in shape) + "]"
