"""What a `config.json` may say before transformers reads it: nothing in it names code, and its counts have an end."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.models.frontend import CONFIG
from prox24_export.models.strict_json import parse_json

WANTED = "the JSON that save_pretrained writes"
LONGEST = 16 * MB
COUNT = re.compile(r"(num|n)_\w+|\w*_layers|\w*depths?", re.ASCII)
MOST = 1 << 14  # layers, heads, labels, of a model whose checkpoint has no axis of that size
LARGEST = 1 << 40


def read_configuration(folder: Path, largest: int) -> dict[str, Any]:
    """Reads the configuration of a model.

    Args:
        folder: The Hugging Face directory.
        largest: The size of the longest axis in the checkpoint; a count may be as large.

    Raises:
        InputError: It cannot be read, is no object, a value that transformers counts up to is larger than anything in
            the checkpoint, or it names code that transformers would fetch.
    """
    file = folder / CONFIG
    expect_file(file, "configuration", WANTED, most=LONGEST)
    try:
        found = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}. Expected {WANTED}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}. Expected {WANTED}.")
    for name, value in _list_values(found):
        most = max(MOST, largest) if COUNT.fullmatch(name) else LARGEST
        if isinstance(value, int) and abs(value) > most:
            raise InputError(
                f"{file} says that {name:.60} is {_show(value)}, and no axis of the checkpoint is longer than "
                f"{largest:,}. Expected the configuration of this model."
            )
        if name.endswith("_implementation") and "/" in str(value):
            raise InputError(
                f"{file} names {str(value)!r:.80} as {name:.60}, which is code from elsewhere. Leave it out."
            )
    if any("auto_map" in value for name, value in _list_values(found) if isinstance(value, dict)):
        raise InputError(f"{file} has an auto_map for a part of the model, which names code. Leave it out of the file.")
    return found


def _list_values(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the name and the value of every entry, those in lists under the list's name."""
    for name, value in found.items():
        for part in value if isinstance(value, list) else [value]:
            yield name, part
            if isinstance(part, dict):
                yield from _list_values(part)


def _show(value: int) -> str:
    return f"{value:,}" if abs(value) < LARGEST * LARGEST else f"a number of {value.bit_length():,} bits"
