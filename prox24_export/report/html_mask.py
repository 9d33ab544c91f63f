"""Masks small enough to travel in the page: one corner of each, one bit an entry; and read back from a page."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prox24_export.errors import InputError

SIDE = 64  # rows and columns shown: 512 bytes a layer
_BLOCK = re.compile(r'<script type="application/json" id="masks">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class Thumbnail:
    """The upper left corner of a mask.

    Attributes:
        rows: Of the corner: outputs.
        columns: Of the corner: the reduction dimension.
        n: Rows of the whole mask.
        k: Columns of the whole mask.
        kept: Entries of the whole mask that are kept.
        bits: The corner row by row, eight entries a byte, the first in the highest bit, 1 where kept; in base64.
    """

    rows: int
    columns: int
    n: int
    k: int
    kept: int
    bits: str


Mask = npt.NDArray[np.bool_] | Thumbnail


def thumbnail(mask: npt.NDArray[np.bool_]) -> Thumbnail:
    """The corner of a mask `[N, K]`, true where an entry is kept.

    Raises:
        InputError: It is no matrix of booleans.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:  # noqa: PLR2004 (a matrix)
        raise InputError(f"mask: expected booleans of shape [N, K], got {mask.dtype} of shape {list(mask.shape)}.")
    shown, (n, k) = mask[:SIDE, :SIDE], mask.shape
    bits = base64.b64encode(np.packbits(shown).tobytes()).decode("ascii")
    return Thumbnail(min(n, SIDE), min(k, SIDE), n, k, int(np.count_nonzero(mask)), bits)


def corner(of: Thumbnail) -> npt.NDArray[np.bool_]:
    """The entries `[rows, columns]` again."""
    packed = np.frombuffer(base64.b64decode(of.bits), np.uint8)
    return np.unpackbits(packed, count=of.rows * of.columns).astype(np.bool_).reshape(of.rows, of.columns)


def block(masks: Mapping[str, Mask]) -> list[list[Any]]:
    """What stands in the page as JSON: a list, because scripts put the keys of an object in another order."""
    small = {name: mask if isinstance(mask, Thumbnail) else thumbnail(mask) for name, mask in masks.items()}
    return [[name, mask.rows, mask.columns, mask.n, mask.k, mask.kept, mask.bits] for name, mask in small.items()]


def read(page: str) -> dict[str, Thumbnail]:
    """The masks of a page that `html.render` made, to render it again; empty where it has none.

    Raises:
        InputError: The page has been edited, and its masks are no longer ours.
    """
    found = _BLOCK.search(page)
    if found is None:
        return {}
    try:
        entries = json.loads(found[1])
        masks = {str(name): Thumbnail(*figures) for name, *figures in entries}
        damaged = next((name for name, mask in masks.items() if not _is_sound(mask)), None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{_EDITED} ({error}).") from error
    if damaged is not None:
        raise InputError(f"{_EDITED} (at layer {damaged}).")
    return masks


_EDITED = (
    "report.html: expected masks as this program writes them, got something else. "
    "Remove the file to render the report without masks"
)


def _is_sound(mask: Thumbnail) -> bool:
    """Whether every figure is a count and the bits are as many as the corner's entries."""
    counts = (mask.rows, mask.columns, mask.n, mask.k, mask.kept)
    if any(type(count) is not int for count in counts) or not isinstance(mask.bits, str):
        return False
    fits = 0 < mask.rows <= min(mask.n, SIDE) and 0 < mask.columns <= min(mask.k, SIDE)
    try:
        packed = base64.b64decode(mask.bits, validate=True)
    except binascii.Error:
        return False
    return fits and 0 <= mask.kept <= mask.n * mask.k and len(packed) == -(-mask.rows * mask.columns // 8)
