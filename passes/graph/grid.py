"""How a weight that is stored as integers becomes floats, and how floats become its integers again."""

import math
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array, as_numpy_dtype


@dataclass(frozen=True)
class StoredGrid:
    """The scales and zero points of a stored weight: an integer `q` stands for `(q − zero) · scale`, a float32.

    Numbers are held as tuples, so that grids compare by what they say.

    Attributes:
        dtype: Type of the integers, `int8` or `uint8`.
        scales: The scales, float32 numbers, positive and finite: one, or one for every slice of an axis.
        zeros: The zero points, as many as there are scales.
        shape: The shape in which both are broadcast to the stored weight.
        lowest: The smallest integer that may be stored. It says what was in a file, and grids are the same without it.
    """

    dtype: str
    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    shape: tuple[int, ...] = ()
    lowest: int = field(default=0, compare=False)

    @property
    def highest(self) -> int:
        """The largest integer of the type."""
        return int(np.iinfo(as_numpy_dtype(self.dtype)).max)

    @property
    def scale(self) -> Array:
        """The scales, float32, in a shape that is broadcast to that of the stored weight."""
        return np.array(self.scales, np.float32).reshape(self.shape)

    @property
    def zero(self) -> Array:
        """The zero points, int32, in the same shape."""
        return np.array(self.zeros, np.int32).reshape(self.shape)

    def count_steps(self, stored: Array) -> Array:
        """Computes `q − zero` of stored integers, int32: 0 where an entry takes no part in a product."""
        return stored.astype(np.int32) - self.zero

    def to_floats(self, stored: Array) -> Array:
        """Computes the float32 numbers that stored integers stand for, as DequantizeLinear does."""
        floats: Array = self.count_steps(stored).astype(np.float32) * self.scale
        return floats

    def to_integers(self, floats: Array, limit: float = math.inf) -> Array:
        """Finds the nearest integers, ties to even; 0.0 becomes exactly the zero point.

        Args:
            floats: Numbers in the stored shape. What is outside the range becomes its nearest end.
            limit: Largest magnitude that the floats of the integers may have.
        """
        scale, zero = self.scale.astype(np.float64), self.zero
        most = np.floor(limit / scale)  # an infinity where there is no limit
        steps = np.rint(floats.astype(np.float64) / scale)
        low, high = np.maximum(self.lowest - zero, -most), np.minimum(self.highest - zero, most)
        integers: Array = (np.clip(steps, low, high) + zero).astype(as_numpy_dtype(self.dtype))
        return integers


@dataclass(frozen=True)
class StoredRange:
    """What a QuantizeLinear behind stored floats can hold; beyond it, floats become the nearest end at run time.

    Attributes:
        low: The smallest float, not above 0: one, or one for every slice of an axis.
        high: The largest, as many.
        shape: The shape in which both are broadcast to the stored weight.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...] = ()

    def clip(self, floats: Array) -> Array:
        """Clips floats in the stored shape to the range; their type stays."""
        low, high = (np.array(ends, floats.dtype).reshape(self.shape) for ends in (self.low, self.high))
        clipped: Array = np.clip(floats, low, high)
        return clipped
