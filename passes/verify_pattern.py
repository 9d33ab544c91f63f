"""Re-reads what was written: 2:4 along the reduction axis, in every use of every pruned weight."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.arrays import Array, is_finite
from prox24_export.passes.graph.protocol import Candidate, Linear, TracedGraph
from prox24_export.solver.pattern import GROUP, KEPT


@dataclass(frozen=True)
class Verified:
    """One use that was checked.

    Attributes:
        node: Name of the node.
        weight: Name of the stored weight.
        groups: Groups of four along K.
        violations: Groups with more than two non-zero entries, a stored −0.0 counting as non-zero.
    """

    node: str
    weight: str
    groups: int
    violations: int


class PatternError(Prox24Error):
    """A written weight is not 2:4: a fault of this program, never of its input."""


def verify_pattern(graph: TracedGraph, linears: Sequence[Linear]) -> list[Verified]:
    """Checks every use of `linears` in a graph that was just read from disk.

    The file's own nodes are recognised anew, so that a wrong layout in the pass that wrote them is found too.

    Raises:
        PatternError: A use is missing, or a group has more than two non-zero entries.
    """
    wanted = {linear.weight for linear in linears}
    found = [check(graph, use) for use in graph.operators() if isinstance(use, Candidate) and use.weight in wanted]
    missing = {use.label for linear in linears for use in linear.uses} - {verified.node for verified in found}
    if missing:
        raise PatternError(f"node {min(missing)} is no longer a linear layer with a constant weight.")
    for verified in found:
        if verified.violations:
            raise PatternError(
                f"weight {verified.weight} at node {verified.node}: {verified.violations} of {verified.groups} groups "
                "are not 2:4. Expected at most two non-zero entries in each. Please report this."
            )
    return found


def check(graph: TracedGraph, use: Candidate) -> Verified:
    """Counts the groups of one use that are not 2:4.

    Raises:
        PatternError: The weight holds NaN or Inf.
    """
    matrix = use.layout.to_matrix(graph.stored(use.weight))
    if not is_finite(matrix):
        raise PatternError(f"weight {use.weight} at node {use.use.label} holds NaN or Inf. Please report this.")
    return Verified(use.use.label, use.weight, matrix.size // GROUP, violations(matrix))


def violations(matrix: Array) -> int:
    """Groups of four along the last axis with more than two entries that are not +0.0."""
    bits = np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")
    return int((np.count_nonzero(bits.reshape(-1, GROUP), axis=1) > KEPT).sum())
