"""Text files as rows of token ids, by the tokenizer of a Hugging Face directory."""

from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.errors import InputError, first_line
from prox24_export.passes.graph.arrays import Array

ENDING = ".txt"


def rows(file: Path, directory: Path, length: int, stride: int | None, option: str) -> Array:
    """Consecutive windows of a text, each with the special tokens that the tokenizer puts around an input.

    Args:
        file: UTF-8 text.
        directory: Holds the tokenizer; nothing is downloaded.
        length: Tokens of a row, special ones included.
        stride: Tokens by which windows advance; None: they do not overlap.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        Token ids, int64 [rows, length]; a text shorter than one row gives one short row.

    Raises:
        InputError: There is no tokenizer, the text cannot be read, or is empty.
    """
    tokenizer = _tokenizer(directory, option, file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{option} {file} cannot be read: {first_line(error)}. Expected UTF-8 text.") from error
    ids = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    if not len(ids):
        raise InputError(f"{option} {file} holds no token. Expected text.")
    before, after = _around(tokenizer, [int(index) for index in ids[:8]], text)
    around = [*before, *after]
    room = max(1, length - len(around))
    step = min(stride or room, room)
    starts = range(0, max(1, len(ids) - room + 1), step)
    return np.array([[*before, *ids[start : start + room], *after] for start in starts], np.int64)


def _around(tokenizer: Any, ids: list[int], text: str) -> tuple[list[int], list[int]]:
    """Special tokens before and after an input: what stands around the first words of the text."""
    words = tokenizer.decode(ids) or text[:32]
    plain = list(tokenizer(words, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(words)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _tokenizer(directory: Path, option: str, file: Path) -> Any:
    if not directory.is_dir():
        raise InputError(
            f"{option} {file} is text, and {directory} has no tokenizer. Expected a Hugging Face directory as the "
            "model, or token ids in an .npz file."
        )
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"{option} {file} is text, and the tokenizer of {directory} cannot be loaded: {first_line(error)}."
        ) from error
    return tokenizer
