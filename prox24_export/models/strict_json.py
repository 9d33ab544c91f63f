"""JSON of strangers: an object that has one name twice is refused, because readers may take either value."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Parses JSON in which no object has one name twice.

    Raises:
        ValueError: It is no JSON, has values too deep within each other, or an object has one name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_expect_single)
    except RecursionError as error:
        raise ValueError("it has too many values within each other") from error


def _expect_single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.60} stands twice in an object")
    return found
