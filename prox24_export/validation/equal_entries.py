"""How many entries of an output are the same in two models, for outputs that hold no floats, such as labels."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def count_equal(dense: Any, sparse: Any) -> tuple[int, int]:
    """Counts the entries that are equal, and all entries.

    Args:
        dense: An output as the runtime returns it: an array, or a list of outputs, or a dictionary of outputs.
        sparse: The same output of the other model. What only one of them holds, and arrays of different shapes, count
            as unequal. NaN equals nothing.

    Returns:
        The number of equal entries, and the number of entries of the larger of both.
    """
    if isinstance(dense, Mapping) and isinstance(sparse, Mapping):
        keys = [*dense, *(key for key in sparse if key not in dense)]
        return _add(_count_pair(dense, sparse, key) for key in keys)
    if isinstance(dense, (list, tuple)) and isinstance(sparse, (list, tuple)):
        pairs = [count_equal(one, other) for one, other in zip(dense, sparse, strict=False)]
        longer = dense if len(dense) > len(sparse) else sparse
        return _add([*pairs, *((0, _count_entries(rest)) for rest in longer[len(pairs) :])])
    entries = max(_count_entries(dense), _count_entries(sparse))
    if isinstance(dense, (Mapping, list, tuple)) or isinstance(sparse, (Mapping, list, tuple)):
        return 0, entries
    if np.shape(dense) != np.shape(sparse):
        return 0, entries
    return int(np.count_nonzero(np.asarray(dense) == np.asarray(sparse))), entries


def _count_pair(dense: Mapping[Any, Any], sparse: Mapping[Any, Any], key: Any) -> tuple[int, int]:
    if key in dense and key in sparse:
        return count_equal(dense[key], sparse[key])
    return 0, _count_entries(dense[key] if key in dense else sparse[key])


def _count_entries(output: Any) -> int:
    if isinstance(output, Mapping):
        return sum(map(_count_entries, output.values()))
    if isinstance(output, (list, tuple)):
        return sum(map(_count_entries, output))
    return int(np.size(output))


def _add(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    equal = entries = 0
    for same, every in counts:
        equal, entries = equal + same, entries + every
    return equal, entries
