"""Decides for each operator that a front end recognised whether it is a layer to prune, or why it stays dense."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prox24_export.passes.graph.protocol import Candidate, Linear, Reason, Skipped, TracedGraph
from prox24_export.solver.pattern import GROUP

FP16_TILE_K = 16  # reduction dimension of one fp16 sparse matrix instruction
FP16_TILE_N = 8


@dataclass(frozen=True)
class FoundLayers:
    """The linear layers of a graph.

    Attributes:
        layers: Layers that can be pruned, and linear-like nodes that stay dense, in topological order.
    """

    layers: tuple[Linear | Skipped, ...]

    @property
    def linears(self) -> list[Linear]:
        """The layers that can be pruned."""
        return [layer for layer in self.layers if isinstance(layer, Linear)]


@dataclass(frozen=True)
class FindLinears:
    """The pass that finds the layers of a graph, and its settings.

    Attributes:
        include: Globs on node or weight names; a layer that matches none is left dense. Empty means all.
        exclude: Globs on node or weight names; a layer that matches one is left dense.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def call(self, *, graph: TracedGraph) -> FoundLayers:
        """Finds layers and skipped nodes, in topological order of their first node.

        A weight that several nodes use along one axis is one layer. A weight that is used along two axes is skipped.
        """
        live, constants, found = find_live_nodes(graph), graph.constants, graph.operators()
        by_weight: dict[str, list[Candidate]] = {}
        for operator in found:
            if isinstance(operator, Candidate):
                by_weight.setdefault(operator.weight, []).append(operator)
        result: list[Linear | Skipped] = []
        for operator in found:
            if isinstance(operator, Skipped):
                result.append(operator)
                continue
            sharers = by_weight[operator.weight]
            refusal = self._refusal(sharers, live, constants)
            if refusal is not None:
                result.append(_skip(operator, *refusal))
            elif operator is sharers[0]:
                result.append(_merge([sharer for sharer in sharers if sharer.use.node in live]))
        found_layers = FoundLayers(tuple(result))
        self.ensures(found_layers)
        return found_layers

    @staticmethod
    def ensures(found: FoundLayers) -> None:
        """Expects every weight in one layer at most: a second layer would overwrite what was solved for the first.

        Raises:
            RuntimeError: A weight is in two layers. This is a fault of this program, never of its input.
        """
        weights = [layer.weight for layer in found.linears]
        if len(weights) != len(set(weights)):
            raise RuntimeError(f"a weight is in two layers. Got {weights}. Please report this.")

    def _refusal(
        self, sharers: Sequence[Candidate], live: AbstractSet[str], constants: AbstractSet[str]
    ) -> tuple[Reason, str] | None:
        """Why the nodes that share one weight stay dense, with a detail; None where the weight can be pruned."""
        first = sharers[0]
        if (disagreement := _find_disagreement(sharers)) is not None:
            return disagreement
        odd = next((sharer for sharer in sharers if sharer.group_size % GROUP), None)
        if odd is not None:
            what = "C_in" if _is_convolution(odd) else "K"
            return Reason.NOT_MULTIPLE_OF_FOUR, f"{what} = {odd.group_size}"
        names = {first.weight, *(name for sharer in sharers for name in (sharer.use.node, sharer.use.label))}
        excluded = next((glob for glob in self.exclude if matches(glob, names)), None)
        if excluded is not None:
            return Reason.EXCLUDED, f"--exclude {excluded}"
        if self.include and not any(matches(glob, names) for glob in self.include):
            return Reason.EXCLUDED, "matches no --include"
        if any(sharer.use.node in live for sharer in sharers):
            return None
        is_constant = all(sharer.use.activation in constants for sharer in sharers)
        unused = (Reason.NOT_REACHED, "its result reaches no graph output")
        return (Reason.NO_ACTIVATION, f"{first.use.activation} depends on no input") if is_constant else unused


def skip_unreached(linear: Linear, detail: str) -> Skipped:
    """Makes a skipped node of a layer whose input calibration could not observe; `detail` says why."""
    return Skipped(
        linear.name, linear.op, linear.weight, linear.k, linear.n, linear.parameters, Reason.NOT_REACHED, detail
    )


def matches(glob: str, names: set[str]) -> bool:
    """Whether a glob of `--include` or `--exclude` matches one of a layer's names."""
    return any(fnmatchcase(name, glob) for name in names)


def _merge(sharers: Sequence[Candidate]) -> Linear:
    """Makes one layer of the nodes that share a weight."""
    first = sharers[0]
    n, k = first.layout.shape
    notes = [*first.notes]
    if first.group_size % FP16_TILE_K:
        what = "C_in" if _is_convolution(first) else "K"
        notes.append(f"{what} % {FP16_TILE_K} ≠ 0: an fp16 sparse kernel is unlikely")
    if n % FP16_TILE_N:
        notes.append(f"N % {FP16_TILE_N} ≠ 0: an fp16 sparse kernel is unlikely")
    if len(sharers) > 1:
        notes.append(f"one weight, {len(sharers)} uses")
    uses = tuple(sharer.use for sharer in sharers)
    return Linear(
        first.use.label,
        first.op,
        first.weight,
        first.dtype,
        first.layout,
        k,
        n,
        uses,
        tuple(notes),
        min(sharer.limit for sharer in sharers),
        first.grid,
        tuple(dict.fromkeys(one for sharer in sharers for one in sharer.ranges)),
    )


def _find_disagreement(sharers: Sequence[Candidate]) -> tuple[Reason, str] | None:
    """Finds why one weight cannot be right for all nodes that share it; None where it can."""
    first = sharers[0]
    nodes = "nodes " + ", ".join(sharer.use.node for sharer in sharers)
    if any(not sharer.layout.same_matrix(first.layout) for sharer in sharers[1:]):
        return Reason.TWO_AXES, nodes
    if any(sharer.grid != first.grid for sharer in sharers[1:]):
        return Reason.QUANTISED_WEIGHT, f"{first.dtype}, under other scales at each of {nodes}"
    return None


def _is_convolution(candidate: Candidate) -> bool:
    return candidate.op.lower().startswith("conv")


def _skip(candidate: Candidate, reason: Reason, detail: str) -> Skipped:
    n, k = candidate.layout.shape
    return Skipped(candidate.use.label, candidate.op, candidate.weight, k, n, n * k, reason, detail)


def find_live_nodes(graph: TracedGraph) -> set[str]:
    """Names of nodes whose result reaches a graph output."""
    wanted = set(graph.outputs)
    live = set()
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            live.add(node.name)
            wanted.update(node.inputs)
    return live
