"""JSON of strangers: an object that has one name twice is refused, because readers may take either value."""

import json
from pathlib import Path
from typing import Any

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import expect_file


def parse_json(text: str | bytes) -> Any:
    """Parses JSON in which no object has one name twice.

    Raises:
        ValueError: It is no JSON, has values too deep within each other, or an object has one name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_expect_single)
    except RecursionError as error:
        raise ValueError("it has too many values within each other") from error


def read_object(file: Path, what: str, wanted: str, *, most: int) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        file: The file.
        what: What messages call it.
        wanted: What was expected, for messages.
        most: The most bytes that it may hold.

    Raises:
        InputError: It is no such file, or holds something else.
    """
    expect_file(file, what, wanted, most=most)
    try:
        found = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}. Expected {wanted}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}. Expected {wanted}.")
    return found


def _expect_single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.60} stands twice in an object")
    return found
