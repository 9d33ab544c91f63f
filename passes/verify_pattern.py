"""Reads the written file again and checks that every use of every pruned weight is 2:4 along its reduction axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.arrays import Array, is_finite
from prox24_export.passes.graph.protocol import Candidate, Linear, TracedGraph, count_from_zero
from prox24_export.solver.pattern import GROUP, KEPT


@dataclass(frozen=True)
class VerifiedUse:
    """One use that was checked.

    Attributes:
        node: Name of the node.
        weight: Name of the stored weight.
        groups: Groups of four along K.
        violations: Groups with more than two non-zero entries, a stored −0.0 counting as non-zero. Of stored integers
            those are zero that are the zero point.
    """

    node: str
    weight: str
    groups: int
    violations: int


class PatternError(Prox24Error):
    """A written weight is not 2:4. This is a fault of this program, never of its input."""


@dataclass(frozen=True)
class VerifiedPattern:
    """What was checked.

    Attributes:
        uses: Every use that was checked, in the order of the graph's nodes.
    """

    uses: tuple[VerifiedUse, ...]


@dataclass(frozen=True)
class VerifyPattern:
    """The pass that checks the pattern of a written file. It has no settings."""

    def call(self, *, graph: TracedGraph, linears: Sequence[Linear]) -> VerifiedPattern:
        """Checks every use of the layers in a graph that was just read from disk.

        The file's own nodes are recognised anew, so that a wrong layout in the pass that wrote them is found too.

        Args:
            graph: The file that was written, read again.
            linears: The layers that were pruned, as they were found in the source.

        Raises:
            PatternError: A use is missing, or a group has more than two non-zero entries.
        """
        wanted = {linear.weight for linear in linears}
        candidates = [use for use in graph.operators() if isinstance(use, Candidate) and use.weight in wanted]
        found = [check_use(graph, use) for use in candidates]
        missing = {use.label for linear in linears for use in linear.uses} - {verified.node for verified in found}
        if missing:
            raise PatternError(f"node {min(missing)} is no longer a linear layer with a constant weight.")
        for verified in found:
            if verified.violations:
                raise PatternError(
                    f"weight {verified.weight} at node {verified.node}: {verified.violations} of {verified.groups} "
                    "groups are not 2:4. Expected at most two non-zero entries in each. Please report this."
                )
        return VerifiedPattern(tuple(found))


def check_use(graph: TracedGraph, use: Candidate) -> VerifiedUse:
    """Counts the groups of one use that are not 2:4.

    Raises:
        PatternError: The weight holds NaN or Inf.
    """
    matrix = use.layout.to_matrix(count_from_zero(graph.stored(use.weight), use.grid))
    if not is_finite(matrix):
        raise PatternError(f"weight {use.weight} at node {use.use.label} holds NaN or Inf. Please report this.")
    return VerifiedUse(use.use.label, use.weight, matrix.size // GROUP, violations(matrix))


def violations(matrix: Array) -> int:
    """Counts the groups of four along the last axis with more than two entries that are not +0.0.

    The bits are compared, so a stored −0.0 counts as an entry.
    """
    bits = np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")
    return int((np.count_nonzero(bits.reshape(-1, GROUP), axis=1) > KEPT).sum())
