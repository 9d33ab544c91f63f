"""A look at the first batch of a source of samples, for front ends that trace a model with it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.data import text
from prox24_export.data.array_files import outline_arrays
from prox24_export.data.disk_datasets import is_saved_dataset
from prox24_export.data.samples import Source
from prox24_export.data.sources import is_function, is_picture_folder, list_files, start_function

TOKENS = (2, 12)  # rows, and ids in each, that stand for those of a text


def peek_first_batch(source: Source | None) -> tuple[Source | None, Any]:
    """Looks at the first batch of an iterable.

    Returns:
        The source, which still yields its first batch even if it can be read only once; and that batch, or None where
        the source is no iterable of batches or yields none.
    """
    if source is None or isinstance(source, (str, Path)):
        return source, None
    items = iter(source)
    first = list(itertools.islice(items, 1))
    return itertools.chain(first, items), first[0] if first else None


def outline_first_batch(source: Source | None, option: str) -> tuple[Source | None, Any]:
    """Looks at the names, shapes and dtypes of the first batch of any source.

    No values are read from files: their arrays are zeros that take no memory. A text stands for token ids alone. A
    function is called, and one item of it is taken.

    Args:
        source: Where samples come from.
        option: How messages name the source, e.g. `--calibration`.

    Returns:
        The source, which still yields its first batch; and that batch: a dictionary of arrays by name, or what a
        function or an iterable yields; None where there is none, and for pictures and datasets, of which
        nothing is known yet.

    Raises:
        InputError: A file is missing or unreadable, or a function fails.
    """
    if not isinstance(source, (str, Path)):
        return peek_first_batch(source)
    if is_function(source, option):
        return start_function(str(source), option)
    if is_picture_folder(Path(source)) or is_saved_dataset(Path(source)):
        return source, None
    first = list_files(Path(source), option)[0]
    if first.suffix.lower() in text.ENDINGS:
        return source, {"input_ids": np.zeros(TOKENS, np.int64)}
    return source, outline_arrays(first, option)
