"""One corner of a layer's mask, small enough to travel with the report at one bit for each entry."""

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prox24_export.errors import InputError

SIDE = 64  # most rows and columns of the corner: 512 bytes for each layer


@dataclass(frozen=True)
class Thumbnail:
    """The upper left corner of a mask.

    Attributes:
        rows: Number of rows of the corner; a row is an output.
        columns: Number of columns of the corner; a column is an entry of the reduction dimension.
        n: Number of rows of the whole mask.
        k: Number of columns of the whole mask.
        kept: Number of entries of the whole mask that are kept.
        bits: The corner in base64: row by row, eight entries in a byte, the first in the highest bit, 1 where kept.
    """

    rows: int
    columns: int
    n: int
    k: int
    kept: int
    bits: str


def make_thumbnail(mask: npt.NDArray[np.bool_]) -> Thumbnail:
    """Makes the thumbnail of a mask of booleans [N, K], true where an entry is kept.

    Raises:
        InputError: The mask is no matrix of booleans.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:  # noqa: PLR2004 (a matrix)
        raise InputError(f"mask: expected booleans of shape [N, K], got {mask.dtype} of shape {list(mask.shape)}.")
    shown, (n, k) = mask[:SIDE, :SIDE], mask.shape
    bits = base64.b64encode(np.packbits(shown).tobytes()).decode("ascii")
    return Thumbnail(min(n, SIDE), min(k, SIDE), n, k, int(np.count_nonzero(mask)), bits)


def unpack_thumbnail(small: Thumbnail) -> npt.NDArray[np.bool_]:
    """Unpacks the corner into booleans [rows, columns], true where an entry is kept."""
    packed = np.frombuffer(base64.b64decode(small.bits), np.uint8)
    return np.unpackbits(packed, count=small.rows * small.columns).astype(np.bool_).reshape(small.rows, small.columns)
