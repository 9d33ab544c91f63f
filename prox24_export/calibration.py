"""Where samples come from: arrays, folders, functions or a random generator; and how they are split into parts."""

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.errors import InputError
from prox24_export.passes.calibrate import Batch
from prox24_export.passes.graph import Array
from prox24_export.passes.onnx_graph import Input

Source = str | Path | Iterable[Mapping[str, Array]]

LABELS = "labels"
RANDOM_SAMPLES = 32
RANDOM_AXIS = 32  # size of a dynamic axis other than the first
PART = 5  # report is a fifth of all samples, choice at most a fifth of the rest
BATCH = 32
BATCH_VALUES = 1 << 22  # input entries in one batch


@dataclass(frozen=True)
class Sample:
    """The smallest piece the data divide into: one item, or as many as a fixed batch axis wants.

    Attributes:
        feeds: Array by input name, of the dtype the model takes.
        labels: True classes of the sample; None where unknown.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None


@dataclass(frozen=True)
class Parts:
    """Samples by what they may be used for; no sample is in two parts."""

    fit: Sequence[Sample]
    choice: Sequence[Sample]
    report: Sequence[Sample]


def read(source: Source, inputs: Sequence[Input], option: str) -> list[Sample]:
    """Samples from `.npz`, `.npy`, a folder of `.npz`, `module:function`, or an iterable of feed dictionaries.

    Args:
        source: Where they are.
        inputs: What the model takes.
        option: How messages name the source, e.g. `--calibration`.

    Raises:
        InputError: The source is missing or unreadable, or an array fits no input, has the wrong dtype or shape, or
            holds NaN or Inf.
    """
    samples = [
        sample
        for where, arrays in _feeds(source, option, inputs)
        for sample in _samples(arrays, inputs, f"{option} {where}")
    ]
    if not samples:
        raise InputError(f"{option} {source} holds no sample. Expected at least one.")
    return samples


def random(
    inputs: Sequence[Input], rows: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], count: int, seed: int
) -> list[Sample]:
    """Seeded random samples: normal floats; integers below the rows of the Gather they feed; scalars 1.

    Args:
        inputs: What the model takes.
        rows: By input name: rows of the table that its integers index.
        shapes: Sizes by input name, where the user gave them.
        count: How many.
        seed: Of the generator.

    Raises:
        InputError: An input has an unknown rank or a type that cannot be drawn, or `shapes` does not fit.
    """
    unknown = set(shapes) - {value.name for value in inputs}
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"--shapes names {sorted(unknown)[0]!r}, which is no input. The inputs are: {names}.")
    generator = np.random.default_rng(seed)
    sizes = {value.name: _random_shape(value, shapes.get(value.name)) for value in inputs}
    return [
        Sample({value.name: _draw(generator, value, sizes[value.name], rows) for value in inputs})
        for _ in range(count)
    ]


def split(samples: Sequence[Sample], *, with_report: bool, seed: int, limit: int | None) -> Parts:
    """Draws at most `limit` samples and divides them; order within a part follows the source.

    Args:
        samples: All of them.
        with_report: Whether a fifth is set aside for the report (no separate evaluation data are given).
        seed: Of the draw.
        limit: `--samples`.
    """
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    report = max(1, len(order) // PART) if with_report and len(order) > 1 else 0
    choice = (len(order) - report) // PART
    cuts = np.split(order, [report, report + choice])
    chosen = [[samples[index] for index in sorted(cut)] for cut in cuts]
    return Parts(fit=chosen[2], choice=chosen[1], report=chosen[0])


def batches(samples: Sequence[Sample], inputs: Sequence[Input], part: str, size: int) -> list[Batch]:
    """Consecutive samples of equal shape, joined along the first axis where the model leaves it dynamic."""
    return [Batch(part, feeds) for feeds, _ in joined(samples, inputs, size)]


def joined(
    samples: Sequence[Sample], inputs: Sequence[Input], size: int
) -> Iterator[tuple[dict[str, Array], Array | None]]:
    """Feeds of at most `size` samples with their labels (None unless every sample has some)."""
    size = size if can_join(inputs) else 1
    start = 0
    while start < len(samples):
        stop = start + 1
        while stop < min(len(samples), start + size) and _alike(samples[start], samples[stop]):
            stop += 1
        group = samples[start:stop]
        feeds = {name: np.concatenate([sample.feeds[name] for sample in group]) for name in group[0].feeds}
        if stop - start == 1:
            feeds = dict(group[0].feeds)
        labels = [sample.labels for sample in group if sample.labels is not None]
        yield feeds, np.concatenate(labels) if len(labels) == len(group) else None
        start = stop


def batch_size(samples: Sequence[Sample]) -> int:
    """Samples per call: at most 32, fewer where inputs are large."""
    values = max(sum(array.size for array in sample.feeds.values()) for sample in samples)
    return max(1, min(BATCH, BATCH_VALUES // max(1, values)))


def can_join(inputs: Sequence[Input]) -> bool:
    """Whether the first axis of every input is dynamic."""
    return all(value.shape and not isinstance(value.shape[0], int) for value in inputs)


def _alike(left: Sample, right: Sample) -> bool:
    return all(left.feeds[name].shape[1:] == right.feeds[name].shape[1:] for name in left.feeds)


def _feeds(source: Source, option: str, inputs: Sequence[Input]) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """(where, arrays) of every file or yielded dictionary."""
    if not isinstance(source, (str, Path)):
        yield from _yielded(source, "batch", option)
        return
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise InputError(f"{option} {path} is a folder without .npz files. Expected one feed dictionary a file.")
        for file in files:
            yield str(file), _load(file, option, inputs)
    elif path.is_file():
        yield str(path), _load(path, option, inputs)
    elif ":" in str(source):
        yield from _yielded(_call(str(source), option), str(source), option)
    else:
        raise InputError(
            f"{option} {source} does not exist. Expected an .npz or .npy file, a folder of .npz, or module:function."
        )


def _load(path: Path, option: str, inputs: Sequence[Input]) -> Mapping[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {"": loaded}
    except Exception as error:
        raise InputError(f"{option} {path} cannot be read: {error}. Expected a NumPy .npz or .npy file.") from error
    named = {value.name for value in inputs}
    data = [name for name in arrays if name != LABELS or LABELS in named]
    if len(inputs) == 1 and len(data) == 1:  # one array for a one-input model: its name does not matter
        arrays[inputs[0].name] = arrays.pop(data[0])
    return arrays


def _call(spec: str, option: str) -> Iterable[Any]:
    module_name, _, name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), name)
        result: Iterable[Any] = function()
    except Exception as error:
        raise InputError(
            f"{option} {spec} failed: {type(error).__name__}: {error}. "
            "Expected module:function, importable from here, that yields feed dictionaries."
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(Path.cwd()))
    return result


def _yielded(items: Iterable[Any], where: str, option: str) -> Iterator[tuple[str, Mapping[str, Array]]]:
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InputError(
                f"{option} {where}: item {index} is a {type(item).__name__}. Expected a dictionary of arrays by input."
            )
        yield f"{where} {index}", {name: np.asarray(value) for name, value in item.items()}


def _samples(arrays: Mapping[str, Array], inputs: Sequence[Input], where: str) -> list[Sample]:
    named = {value.name for value in inputs}
    labels = arrays.get(LABELS) if LABELS not in named else None
    given = {name for name in arrays if name != LABELS or name in named}
    if given != named:
        raise InputError(
            f"{where} has arrays {sorted(given)}. Expected one for each input: {sorted(named)} (and, for evaluation, "
            f"{LABELS!r})."
        )
    feeds = {value.name: _cast(arrays[value.name], value, where) for value in inputs}
    for name, array in feeds.items():
        _expect_finite(name, array, where)
    count = _count(feeds, inputs, where)
    if count is None:
        return [Sample(feeds, labels)]
    if labels is not None and len(labels) % count:
        raise InputError(f"{where}: {LABELS!r} has {len(labels)} entries for {count} samples.")
    return [
        Sample(
            {value.name: _item(feeds[value.name], value, index, count) for value in inputs},
            None if labels is None else _piece(labels, index, count),
        )
        for index in range(count)
    ]


def _count(feeds: Mapping[str, Array], inputs: Sequence[Input], where: str) -> int | None:
    """Samples that the arrays divide into along their first axis; None where they are one feed as they stand."""
    counts = set()
    for value in inputs:
        array = feeds[value.name]
        shape = value.shape
        if shape is None:
            counts.add(len(array) if array.ndim else None)
            continue
        if shape == () and array.ndim == 1:
            counts.add(len(array))
            continue
        inner = zip(array.shape[1:], shape[1:], strict=False)
        fits = array.ndim == len(shape) and all(not isinstance(size, int) or size == got for got, size in inner)
        if not fits:
            raise InputError(
                f"{where}: {value.name!r} has shape {list(array.shape)}. Expected {_shown(shape)}, "
                "the first axis running over samples."
            )
        if shape == ():
            counts.add(None)
            continue
        per_sample = shape[0] if isinstance(shape[0], int) else 1
        if len(array) % per_sample:
            raise InputError(
                f"{where}: {value.name!r} has {len(array)} items. Expected a multiple of the model's fixed batch "
                f"size {per_sample}."
            )
        counts.add(len(array) // per_sample)
    known = counts - {None}
    if len(known) == 1 and None not in counts:
        return known.pop()
    if all(_matches(feeds[value.name].shape, value.shape) for value in inputs):
        return None
    raise InputError(
        f"{where}: the arrays hold different numbers of samples: "
        + ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        + ". Expected the same number along the first axis of each."
    )


def _matches(got: tuple[int, ...], declared: tuple[int | str | None, ...] | None) -> bool:
    if declared is None:
        return True
    pairs = zip(got, declared, strict=False)
    return len(got) == len(declared) and all(not isinstance(size, int) or size == here for here, size in pairs)


def _item(array: Array, value: Input, index: int, count: int) -> Array:
    piece = _piece(array, index, count)
    return piece.reshape(()) if value.shape == () else piece


def _piece(array: Array, index: int, count: int) -> Array:
    size = len(array) // count
    return array[index * size : (index + 1) * size] if array.ndim else array


def _cast(array: Array, value: Input, where: str) -> Array:
    """To the input's dtype where that keeps the meaning; refused otherwise."""
    if array.dtype == value.dtype:
        return array
    both_float = _is_float(array.dtype) and _is_float(value.dtype)
    both_integer = array.dtype.kind in "iu" and value.dtype.kind in "iu"
    if both_integer and array.size:
        limits = np.iinfo(value.dtype)
        both_integer = bool(array.min() >= limits.min and array.max() <= limits.max)
    if not (both_float or both_integer):
        raise InputError(
            f"{where}: {value.name!r} is {array.dtype}. Expected {value.dtype}, or a type whose values mean the same "
            "(float to float, integers in range); convert it as the model's preprocessing does."
        )
    with np.errstate(over="ignore"):  # an overflow becomes Inf, which the next check names
        return array.astype(value.dtype)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _expect_finite(name: str, array: Array, where: str) -> None:
    if not _is_float(array.dtype) or bool(np.isfinite(array).all()):
        return
    first = np.argwhere(~np.isfinite(array))[0]
    raise InputError(
        f"{where}: {name!r} holds NaN or Inf, first in sample {int(first[0]) if len(first) else 0}. "
        "Expected finite values; remove or repair that sample."
    )


def _random_shape(value: Input, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        if value.shape is not None and not _matches(given, value.shape):
            raise InputError(f"--shapes gives {value.name!r} {list(given)}. Expected {_shown(value.shape)}.")
        return given
    if value.shape is None:
        raise InputError(f"input {value.name!r} declares no rank. Give its shape: --shapes {value.name}:1x3x224x224.")
    return tuple(
        size if isinstance(size, int) else (1 if axis == 0 else RANDOM_AXIS) for axis, size in enumerate(value.shape)
    )


def _draw(generator: np.random.Generator, value: Input, shape: tuple[int, ...], rows: Mapping[str, int]) -> Array:
    dtype = value.dtype
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise InputError(f"input {value.name!r} is {dtype}: no random values can be drawn. Give --calibration.")
    if shape == ():
        return np.ones((), dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limit = min(rows.get(value.name, 256), int(np.iinfo(dtype).max) + 1)
        return generator.integers(0, limit, shape).astype(dtype)
    return generator.standard_normal(shape, np.float32).astype(dtype)


def _shown(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join(str(size or "?") for size in shape) + "]"
