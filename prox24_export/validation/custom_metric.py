"""The user's own metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prox24_export import user_code
from prox24_export.errors import InputError
from prox24_export.passes.graph import Array

Model = Callable[[Mapping[str, Array]], Sequence[Array]]
WANTED = "takes (run, batches) and returns a number, or numbers by name"


def measure(
    spec: str, model: Model, names: Sequence[str], batches: Iterable[tuple[Mapping[str, Array], Array | None]]
) -> dict[str, float]:
    """Calls `module:function` with a model and the evaluation batches.

    Args:
        spec: The function takes `run`, from feeds by input name to outputs by output name, and `batches`, a list of
            (feeds, labels or None). It returns a number, or numbers by name.
        model: Feeds to outputs, in the order of `names`.
        names: Outputs.
        batches: What the function gets.

    Raises:
        InputError: The function fails, or returns something else.
    """

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, model(feeds), strict=True))

    returned = user_code.run(spec, "--metric", WANTED, lambda function: function(run, _copies(batches)))
    values = returned if isinstance(returned, Mapping) else {spec.rpartition(":")[2]: returned}
    return {str(name): _number(value, spec) for name, value in values.items()}


def _copies(batches: Iterable[tuple[Mapping[str, Array], Array | None]]) -> list[Any]:
    """The function may change what it gets."""
    return [
        ({name: array.copy() for name, array in feeds.items()}, None if labels is None else labels.copy())
        for feeds, labels in batches
    ]


def _number(value: Any, spec: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"--metric {spec} returned {value!r}. Expected a function that {WANTED}, finite ones.")
    return number
