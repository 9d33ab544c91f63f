"""What a source of samples is: files, or a function of the user's, of which a first item may have been taken."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prox24_export import user_code
from prox24_export.data.picture_folders import ENDINGS, holds_pictures
from prox24_export.errors import InputError
from prox24_export.input_files import expect_no_url, expect_path, propose_near

KINDS = "an .npz, .npy, .txt or .jsonl file, a folder of .npz or of pictures"
YIELDS = "yields feed dictionaries"


@dataclass(frozen=True)
class StartedFunction:
    """A function of the user's that was called, because a first look was taken at what it yields.

    Attributes:
        spec: The function, as `module:function`.
        items: All that it yields, the first item included. They can be read once.
    """

    spec: str
    items: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        """Returns what the function yields."""
        return self.items

    def __str__(self) -> str:
        """Returns the function as the user named it."""
        return self.spec


def start_function(spec: str, option: str) -> tuple[StartedFunction, Any]:
    """Calls a function of the user's and takes the first of its items.

    Args:
        spec: The function, as `module:function`.
        option: The option that named it, for messages, e.g. `--calibration`.

    Returns:
        The function, which still yields all of its items; and the first one, or None where there is none.

    Raises:
        InputError: The function cannot be imported, or fails.
    """

    def start(function: Any) -> tuple[Iterator[Any], list[Any]]:
        items = iter(function())
        return items, list(itertools.islice(items, 1))

    items, first = user_code.call_function(spec, option, YIELDS, start)
    return StartedFunction(spec, itertools.chain(first, items)), first[0] if first else None


def is_function(source: str | Path, option: str) -> bool:
    """Whether a source is `module:function`, and no path.

    Raises:
        InputError: It is a URL, or a name that no file can have.
    """
    expect_path(source, option)
    if not Path(source).exists():
        expect_no_url(source, option)
    return ":" in str(source) and not Path(source).exists()


def is_picture_folder(path: Path) -> bool:
    """Whether a path is a folder that holds pictures, or holds folders of them, and no `.npz` files."""
    return path.is_dir() and next(path.glob("*.npz"), None) is None and holds_pictures(path)


def list_files(path: Path, option: str) -> list[Path]:
    """Lists the files that samples are read from: one, or the `.npz` files of a folder in the order of their names.

    Raises:
        InputError: There is no such file, it is a single picture, or the folder holds none.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise InputError(
                f"{option} {path} is a folder without .npz files and pictures. Expected one feed dictionary a file, "
                "pictures, or one sub-folder of pictures for each class."
            )
        return files
    if not path.exists():
        raise InputError(f"{option} {path} does not exist. Expected {KINDS}, or module:function.{propose_near(path)}")
    if path.suffix.lower() in ENDINGS:
        raise InputError(f"{option} {path} is one picture. Give the folder that holds all of them.")
    return [path]
