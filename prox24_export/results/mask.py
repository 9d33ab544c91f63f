"""One corner of a layer's mask, small enough to travel with the report: one bit an entry."""

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prox24_export.errors import InputError

SIDE = 64  # rows and columns shown: 512 bytes a layer


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
