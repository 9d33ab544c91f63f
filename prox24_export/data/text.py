"""Text files as rows of token ids, by the tokenizer of a Hugging Face directory or by a tokenizer file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Input
from prox24_export.process.native_output import silence_native_output
from prox24_export.process.offline import stay_offline

LINES = ".jsonl"
ENDINGS = frozenset({".txt", LINES})
TOKENIZER = "tokenizer.json"
FIELDS = ("text", "content", "prompt")  # of a line that may hold the text, the first of them that is there
LABELS = ("label", "labels")  # fields that a text has no use for
EVALUATION = "--evaluation"
BESIDE = ("attention_mask", "token_type_ids", "position_ids")  # inputs that follow from rows without padding
PANIC = "PanicException"
LONGEST = 512 * MB  # a token takes many times the bytes of its text


def find_tokenizer(model: Path) -> Path:
    """Finds where the tokenizer of a model would be: its directory, or `tokenizer.json` beside its file."""
    return model if model.is_dir() else model.with_name(TOKENIZER)


def name_token_rows(ids: Array, inputs: Sequence[Input], where: str) -> dict[str, Array]:
    """Makes arrays by input name of token ids.

    Args:
        ids: Token ids, int64 [rows, T], without padding.
        inputs: The inputs of the model: token ids, and what follows from them.
        where: What holds the text, for messages.

    Raises:
        InputError: The model takes something else.
    """
    others = {value.name for value in inputs} & set(BESIDE) if len(inputs) > 1 else set()
    tokens = [value.name for value in inputs if value.name not in others]
    if len(tokens) != 1:
        names = ", ".join(value.name for value in inputs)
        raise InputError(
            f"{where} is text, and the model takes {names}. Expected a model of token ids, and beside them only "
            f"{', '.join(BESIDE)}. Give arrays in an .npz file."
        )
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    values = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids), "position_ids": places.copy()}
    return {tokens[0]: ids} | {name: values[name] for name in sorted(others)}


def read_token_rows(file: Path, place: Path, length: int, stride: int | None, option: str) -> Array:
    """Reads consecutive windows of a text, each with the special tokens that the tokenizer puts around an input.

    Args:
        file: A UTF-8 text file; or lines of JSON, whose texts are read with an empty line between them.
        place: A tokenizer file, or the Hugging Face directory that holds the tokenizer; nothing is downloaded.
        length: The number of tokens in a row, special ones included.
        stride: The number of tokens by which windows advance; None where they do not overlap.
        option: How messages name the file, e.g. `--calibration`.

    Returns:
        Token ids, int64 [rows, length]; a text shorter than one row gives one short row.

    Raises:
        InputError: There is no tokenizer, it cannot be loaded or fails, or the text cannot be read or is empty, or a
            line holds no text.
    """
    expect_file(file, option, "UTF-8 text", most=LONGEST)
    _expect_tokenizer(place, f"{option} {file}")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{option} {file} cannot be read: {first_line(error)}. Expected UTF-8 text.") from error
    if file.suffix.lower() == LINES:
        text = "\n\n".join(_read_lines(text, f"{option} {file}", is_measured=option == EVALUATION))
    return cut_token_rows(text, place, length, stride, f"{option} {file}")


def cut_token_rows(text: str, place: Path, length: int, stride: int | None, where: str) -> Array:
    """Cuts consecutive windows out of a text, as `read_token_rows` does with that of a file.

    Args:
        text: The text.
        place: As for `read_token_rows`, like the next two.
        length: The number of tokens in a row.
        stride: The number of tokens by which windows advance.
        where: How messages name the text.

    Raises:
        InputError: There is no tokenizer, it cannot be loaded or fails, or the text is empty.
    """
    _expect_tokenizer(place, where)
    with _expect_working(place, where, "cannot be loaded"):
        tokenizer = _load_tokenizer(place)
    with _expect_working(place, where, "cannot read it"):
        ids = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
        before, after = _find_special_tokens(tokenizer, [int(index) for index in ids[:8]], text)
    if not len(ids):
        raise InputError(f"{where} holds no token. Expected text.")
    around = [*before, *after]
    room = max(1, length - len(around))
    step = min(stride or room, room)
    starts = range(0, max(1, len(ids) - room + 1), step)
    return np.array([[*before, *ids[start : start + room], *after] for start in starts], np.int64)


def _read_lines(text: str, where: str, *, is_measured: bool) -> Iterator[str]:
    """Yields the text of every line of JSON: a string, or an object that holds one under a usual name.

    Where accuracy is measured, labels of lines are refused, since rows of tokens are no lines and have none.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}, line {number}, is no JSON: {first_line(error)}. Expected one object a line."
            ) from error
        words = found
        if is_measured and isinstance(found, dict) and (name := next(filter(found.__contains__, LABELS), None)):
            raise InputError(
                f"{where}, line {number}, has a field {name!r}, and lines are read as one text, whose rows have no "
                "label. Leave the field out to measure perplexity, or give token ids and labels in an .npz file."
            )
        if isinstance(found, dict):
            words = next((found[name] for name in FIELDS if name in found), None)
        if not isinstance(words, str):
            names = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise InputError(
                f"{where}, line {number}, holds {names}. Expected a text under {', '.join(FIELDS)}; rename the field."
            )
        yield words


def _find_special_tokens(tokenizer: Any, ids: list[int], text: str) -> tuple[list[int], list[int]]:
    """Finds the special tokens before and after an input: those that stand around the first words of the text."""
    words = tokenizer.decode(ids) or text[:32]
    plain = list(tokenizer(words, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(words)["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _expect_tokenizer(place: Path, where: str) -> None:
    if not place.exists():
        raise InputError(
            f"{where} is text, and there is no tokenizer at {place}. Give --tokenizer tokenizer.json, a "
            "Hugging Face directory as the model, or token ids in an .npz file."
        )


def _load_tokenizer(place: Path) -> Any:
    stay_offline()
    if place.is_file():
        import transformers  # noqa: PLC0415 - an extra

        fast: Any = transformers.PreTrainedTokenizerFast
        return fast(tokenizer_file=str(place))
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


@contextmanager
def _expect_working(place: Path, where: str, failed: str) -> Iterator[None]:
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
            f"{where} is text, and the tokenizer of {place} {failed}: {first_line(error).rstrip('.')}. "
            "Expected one that save_pretrained wrote, or token ids in an .npz file."
        ) from error
