"""What a `config.json` may say before transformers reads it: nothing in it names code, and its counts have an end."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prox24_export.errors import InputError
from prox24_export.input_files import MB
from prox24_export.models.frontend import CONFIG
from prox24_export.models.strict_json import read_object

WANTED = "the JSON that save_pretrained writes"
LONGEST = 16 * MB
LAYERS = re.compile(r"\w*(layers?|depths?|repeats)", re.ASCII)
COUNT = re.compile(r"(num|n)_\w+", re.ASCII)
FACTOR = re.compile(r"\w*(multiplier|coefficient)s?", re.ASCII)
FEW = 100  # layers of a model whose checkpoint has fewer tensors, and what a number of layers is multiplied by
MOST = 1 << 14  # heads, labels, of a model whose checkpoint has no axis of that size
LARGEST = 1 << 40
ELSEWHERE = re.compile(r"\w*(_implementation|kernel)\w*", re.ASCII)
REDIRECTS = frozenset({"configuration_files", "attribute_map"})
PRIVATE = frozenset(
    {
        *("_name_or_path", "_commit_hash", "_attn_implementation_autoset", "_flash_attn_2_enabled", "_num_labels"),
        *("_out_features", "_out_indices", "_pad_token_id", "_sliding_window_pattern", "_remove_final_layer_norm"),
        *("_class_name", "_diffusers_version", "__float__"),
    }
)
"""What begins with `_` and is written by `save_pretrained`; other such names are attributes behind those checked."""


def read_configuration(folder: Path, largest: int, tensors: int = 0) -> dict[str, Any]:
    """Reads the configuration of a model.

    Args:
        folder: The Hugging Face directory.
        largest: The size of the longest axis in the checkpoint; a count may be as large.
        tensors: The number of tensors in the checkpoint; there may be as many layers.

    Raises:
        InputError: It cannot be read, is no object, a value that transformers counts up to is larger than anything in
            the checkpoint, it names code or models that transformers would fetch or give to timm, or it has
            transformers read other values than those that are checked here.
    """
    file = folder / CONFIG
    found = read_object(file, "configuration", WANTED, most=LONGEST)
    for name, value in _list_values(found):
        _expect_count(name, value, largest, tensors, file)
        _expect_own(name, value, file)
    if any("auto_map" in value for name, value in _list_values(found) if isinstance(value, dict)):
        raise InputError(f"{file} has an auto_map for a part of the model, which names code. Leave it out of the file.")
    expect_no_timm(found, file)
    return found


def expect_no_timm(found: dict[str, Any], file: Path) -> None:
    """Expects a configuration in which no part of the model is made by timm or fetched by its name.

    timm reads pickles, and what it is asked for may lie on the network.

    Args:
        found: The configuration, as it is in the file or as transformers completes it.
        file: The file, for messages.

    Raises:
        InputError: A part is.
    """
    for part in (found, *(value for _, value in _list_values(found) if isinstance(value, dict))):
        names = [part.get("model_type"), *_list(part.get("architectures"))]
        if part.get("use_timm_backbone") or any(str(name).lower().startswith("timm") for name in names):
            raise InputError(
                f"{file} has timm make a part of the model, and timm may read pickles and the network. "
                "Export the model to ONNX."
            )
        if isinstance(part.get("backbone"), str) and not part.get("backbone_config"):
            raise InputError(
                f"{file} names {part['backbone']!r:.80} as backbone, which transformers would look for elsewhere. "
                "Export the model to ONNX."
            )


def _expect_count(name: str, value: Any, largest: int, tensors: int, file: Path) -> None:
    """Expects a number that transformers can count up to, or multiply a count by."""
    if not isinstance(value, (int, float)):
        return
    most: float = LARGEST if isinstance(value, int) else math.inf
    if LAYERS.fullmatch(name):
        most = max(FEW, tensors)
    elif FACTOR.fullmatch(name):
        most = FEW
    elif COUNT.fullmatch(name):
        most = max(MOST, largest)
    if abs(value) > most:
        raise InputError(
            f"{file} says that {name:.60} is {_show(value)}, and its checkpoint has {tensors:,} tensors, of which no "
            f"axis is longer than {largest:,}. Expected the configuration of this model."
        )


def _expect_own(name: str, value: Any, file: Path) -> None:
    """Expects an entry that names no code from elsewhere, and does not stand for another one."""
    if ELSEWHERE.fullmatch(name) and "/" in str(value):
        raise InputError(f"{file} names {str(value)!r:.80} as {name:.60}, which is code from elsewhere. Leave it out.")
    if name in REDIRECTS or (name.startswith("_") and name not in PRIVATE):
        raise InputError(
            f"{file} has {name:.60}, by which transformers may read other values than those that are checked. "
            "Leave it out of the file."
        )


def _list_values(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the name and the value of every entry, those in lists under the list's name."""
    for name, value in found.items():
        for part in _flatten(value):
            yield name, part
            if isinstance(part, dict):
                yield from _list_values(part)


def _flatten(value: Any) -> Iterator[Any]:
    """Yields a value; of a list, the values in it and in the lists within it. An empty one is itself a value."""
    if isinstance(value, (list, tuple)) and value:
        for part in value:
            yield from _flatten(part)
    else:
        yield value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if abs(value) < LARGEST * LARGEST else f"a number of {value.bit_length():,} bits"
