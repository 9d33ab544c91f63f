"""The way from a stored weight to the matrix `W` [N, K] of `Y = X Wᵀ`, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prox24_export.passes.graph.arrays import Array


@dataclass(frozen=True)
class Permute:
    """Reorders axes, as `numpy.transpose` does.

    Attributes:
        axes: For each axis of the result, the axis of the array that it is.
    """

    axes: tuple[int, ...]

    def apply(self, array: Array) -> Array:
        """Takes the step forward, from the stored shape towards the matrix."""
        return array.transpose(self.axes)

    def undo(self, array: Array) -> Array:
        """Takes the step backward, from the matrix towards the stored shape."""
        return array.transpose(np.argsort(self.axes))


@dataclass(frozen=True)
class Reshape:
    """Gives an array another shape, with its entries in row-major order.

    Attributes:
        before: Shape of the array.
        after: Shape of the result, with as many entries.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]

    def apply(self, array: Array) -> Array:
        """Takes the step forward, from the stored shape towards the matrix."""
        return array.reshape(self.after)

    def undo(self, array: Array) -> Array:
        """Takes the step backward, from the matrix towards the stored shape."""
        return array.reshape(self.before)


@dataclass(frozen=True)
class Layout:
    """A chain of permutations and reshapes from the stored shape to `[N, K]`.

    Attributes:
        stored: Shape of the weight in the file.
        steps: The permutations and reshapes, applied in order.
    """

    stored: tuple[int, ...]
    steps: tuple[Permute | Reshape, ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after the steps."""
        return self.to_matrix(np.broadcast_to(np.uint8(0), self.stored)).shape

    def permute(self, axes: Sequence[int]) -> "Layout":
        """This layout followed by `numpy.transpose(axes)`."""
        axes = tuple(int(axis) for axis in axes)
        return self if axes == tuple(range(len(axes))) else Layout(self.stored, (*self.steps, Permute(axes)))

    def reshape(self, shape: Sequence[int]) -> "Layout":
        """This layout followed by a row-major reshape; one entry of `shape` may be -1."""
        before = self.shape
        after = np.broadcast_to(np.uint8(0), before).reshape(tuple(int(size) for size in shape)).shape
        return self if after == before else Layout(self.stored, (*self.steps, Reshape(before, after)))

    def to_matrix(self, array: Array) -> Array:
        """Converts the stored array to the matrix [N, K]."""
        for step in self.steps:
            array = step.apply(array)
        return array

    def from_matrix(self, matrix: Array) -> Array:
        """Converts the matrix [N, K] to the stored array, which is contiguous."""
        for step in reversed(self.steps):
            matrix = step.undo(matrix)
        return np.ascontiguousarray(matrix)

    def of_part(self) -> "Layout | None":
        """The layout of one entry along the first stored axis. None where that axis does not stay first."""
        axes = [step.axes for step in self.steps if isinstance(step, Permute)]
        if len(axes) < len(self.steps) or any(order[0] for order in axes):
            return None
        return Layout(self.stored[1:], tuple(Permute(tuple(axis - 1 for axis in order[1:])) for order in axes))

    def same_matrix(self, other: "Layout") -> bool:
        """Whether both layouts turn the stored weight into the same matrix, even if by different steps."""
        if self.steps == other.steps:
            return True
        if self.shape != other.shape:
            return False
        index = np.arange(np.prod(self.stored), dtype=np.int64).reshape(self.stored)
        return bool(np.array_equal(self.to_matrix(index), other.to_matrix(index)))
