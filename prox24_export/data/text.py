"""Text files as rows of token ids, by the tokenizer of a Hugging Face directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.passes.graph.arrays import Array
from prox24_export.process.native_output import silence_native_output
from prox24_export.process.offline import stay_offline

ENDING = ".txt"
PANIC = "PanicException"
LONGEST = 512 * MB  # a token takes many times the bytes of its text


def read_token_rows(file: Path, directory: Path, length: int, stride: int | None, option: str) -> Array:
    """Reads consecutive windows of a text, each with the special tokens that the tokenizer puts around an input.

    Args:
        file: A UTF-8 text file.
        directory: The Hugging Face directory that holds the tokenizer; nothing is downloaded.
        length: The number of tokens in a row, special ones included.
        stride: The number of tokens by which windows advance; None where they do not overlap.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        Token ids, int64 [rows, length]; a text shorter than one row gives one short row.

    Raises:
        InputError: There is no tokenizer, it cannot be loaded or fails, or the text cannot be read or is empty.
    """
    expect_file(file, option, "UTF-8 text", most=LONGEST)
    _expect_directory(directory, option, file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{option} {file} cannot be read: {first_line(error)}. Expected UTF-8 text.") from error
    with _expect_working(directory, option, file, "cannot be loaded"):
        tokenizer = _load_tokenizer(directory)
    with _expect_working(directory, option, file, "cannot read it"):
        ids = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
        before, after = _find_special_tokens(tokenizer, [int(index) for index in ids[:8]], text)
    if not len(ids):
        raise InputError(f"{option} {file} holds no token. Expected text.")
    around = [*before, *after]
    room = max(1, length - len(around))
    step = min(stride or room, room)
    starts = range(0, max(1, len(ids) - room + 1), step)
    return np.array([[*before, *ids[start : start + room], *after] for start in starts], np.int64)


def _find_special_tokens(tokenizer: Any, ids: list[int], text: str) -> tuple[list[int], list[int]]:
    """Finds the special tokens before and after an input: those that stand around the first words of the text."""
    words = tokenizer.decode(ids) or text[:32]
    plain = list(tokenizer(words, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(words)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _expect_directory(directory: Path, option: str, file: Path) -> None:
    if not directory.is_dir():
        raise InputError(
            f"{option} {file} is text, and {directory} has no tokenizer. Expected a Hugging Face directory as the "
            "model, or token ids in an .npz file."
        )


def _load_tokenizer(directory: Path) -> Any:
    stay_offline()
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


@contextmanager
def _expect_working(directory: Path, option: str, file: Path, failed: str) -> Iterator[None]:
    """Makes one sentence of whatever goes wrong in a tokenizer.

    The library behind it is written in Rust: a fault there is printed, and raised as what is no `Exception`.
    """
    try:
        with silence_native_output():
            yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise InputError(
            f"{option} {file} is text, and the tokenizer of {directory} {failed}: {first_line(error).rstrip('.')}. "
            "Expected one that save_pretrained wrote, or token ids in an .npz file."
        ) from error
