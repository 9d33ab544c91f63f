"""Text files as rows of token ids, by the tokenizer of a Hugging Face directory."""

from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.passes.graph.arrays import Array
from prox24_export.process.offline import stay_offline

ENDING = ".txt"
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
        InputError: There is no tokenizer, or the text cannot be read or is empty.
    """
    expect_file(file, option, "UTF-8 text", most=LONGEST)
    tokenizer = _load_tokenizer(directory, option, file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{option} {file} cannot be read: {first_line(error)}. Expected UTF-8 text.") from error
    ids = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    if not len(ids):
        raise InputError(f"{option} {file} holds no token. Expected text.")
    before, after = _find_special_tokens(tokenizer, [int(index) for index in ids[:8]], text)
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


def _load_tokenizer(directory: Path, option: str, file: Path) -> Any:
    if not directory.is_dir():
        raise InputError(
            f"{option} {file} is text, and {directory} has no tokenizer. Expected a Hugging Face directory as the "
            "model, or token ids in an .npz file."
        )
    stay_offline()
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"{option} {file} is text, and the tokenizer of {directory} cannot be loaded: {first_line(error)}."
        ) from error
    return tokenizer
