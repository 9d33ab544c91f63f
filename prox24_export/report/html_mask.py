"""Packs one corner of each mask into the page, at one bit for each entry, and reads the masks of a page back."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from prox24_export.errors import InputError
from prox24_export.results.mask import SIDE, Thumbnail, make_thumbnail

_BLOCK = re.compile(r'<script type="application/json" id="masks">(.*?)</script>', re.DOTALL)


Mask = npt.NDArray[np.bool_] | Thumbnail


def pack_masks(masks: Mapping[str, Mask]) -> list[list[Any]]:
    """Packs masks for the page's JSON: as a list, because scripts put the keys of an object in another order."""
    small = {name: mask if isinstance(mask, Thumbnail) else make_thumbnail(mask) for name, mask in masks.items()}
    return [[name, mask.rows, mask.columns, mask.n, mask.k, mask.kept, mask.bits] for name, mask in small.items()]


def read_masks(page: str) -> dict[str, Thumbnail]:
    """Reads the masks of a page that `html.render` made, to render it again; empty where it has none.

    Raises:
        InputError: The page has been edited: its masks are not as `pack_masks` makes them.
    """
    found = _BLOCK.search(page)
    if found is None:
        return {}
    try:
        entries = json.loads(found[1])
        masks = {str(name): Thumbnail(*figures) for name, *figures in entries}
        damaged = next((name for name, mask in masks.items() if not _is_sound(mask)), None)
    except (ValueError, TypeError, RecursionError) as error:
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
