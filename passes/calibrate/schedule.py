"""Orders layers into stages so that every node of the graph runs once in each activation stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prox24_export.passes.graph.protocol import Linear, Node, TracedGraph, Use


@dataclass(frozen=True)
class Stage:
    """Layers that do not depend on each other, and the nodes that lead to their inputs from the stage before.

    Attributes:
        nodes: The nodes to run, in order. They start from the values that the stage before kept.
        observed: Pairs of a layer and one of its uses, whose activation is known once `nodes` have run.
        linears: Layers of which every use has been observed by then; they are solved in this stage.
        kept: Names of the values that a later stage reads.
    """

    nodes: tuple[Node, ...]
    observed: tuple[tuple[Linear, Use], ...]
    linears: tuple[Linear, ...]
    kept: frozenset[str]

    @property
    def fetches(self) -> tuple[str, ...]:
        """Names of the values that the nodes have to return: observed activations, and values that are kept."""
        wanted = {name for _, use in self.observed for name in use.reads} | self.kept
        return tuple(name for node in self.nodes for name in node.outputs if name in wanted)


def schedule(graph: TracedGraph, linears: Sequence[Linear]) -> list[Stage]:
    """Orders the layers into stages.

    A value's level is the number of layers on the longest way from an input to it; a node runs at the level of its
    inputs, plus one where it is a use of a layer. Stage `s` observes the activations of level `s`, so the node that
    multiplies runs in stage `s + 1`, with the solved weight. A weight used at several levels is solved at the
    deepest one; its earlier uses run dense in both streams, because their Gram matrices belong to the same problem.

    Nodes that no layer depends on are in no stage.
    """
    uses = {use.node: linear for linear in linears for use in linear.uses}
    level = _find_levels(graph, uses)
    observed: dict[int, list[tuple[Linear, Use]]] = {}
    solved: dict[int, list[Linear]] = {}
    for linear in linears:
        for use in linear.uses:
            observed.setdefault(level.get(use.activation, 0), []).append((linear, use))
        solved.setdefault(max(level.get(use.activation, 0) for use in linear.uses), []).append(linear)
    wanted_at = _find_last_readers(graph, level, linears)
    nodes: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if wanted_at.keys() & set(node.outputs):
            nodes.setdefault(level[node.outputs[0]], []).append(node)
    kept: dict[int, set[str]] = {}
    for name, last in wanted_at.items():
        for stage in range(level.get(name, 0), last):
            kept.setdefault(stage, set()).add(name)
    return [
        Stage(
            tuple(nodes.get(stage, ())),
            tuple(observed.get(stage, ())),
            tuple(solved.get(stage, ())),
            frozenset(kept.get(stage, ())),
        )
        for stage in range(max(solved, default=-1) + 1)
    ]


def _find_levels(graph: TracedGraph, uses: Mapping[str, Linear]) -> dict[str, int]:
    """Finds the level of every computed value. Graph inputs and constants have level 0 and are left out."""
    level: dict[str, int] = {}
    for node in graph.nodes:
        here = max((level.get(name, 0) for name in node.inputs), default=0) + (node.name in uses)
        level.update(dict.fromkeys(node.outputs, here))
    return level


def _find_last_readers(graph: TracedGraph, level: Mapping[str, int], linears: Sequence[Linear]) -> dict[str, int]:
    """Finds the last stage that reads each value, by name, for every value that a layer's input depends on."""
    last: dict[str, int] = {}
    for linear in linears:
        for use in linear.uses:
            for name in use.reads:
                last[name] = max(last.get(name, 0), level.get(use.activation, 0))
    for node in reversed(graph.nodes):
        if not last.keys() & set(node.outputs):
            continue
        for name in node.inputs:
            if name not in graph.constants:
                last[name] = max(last.get(name, 0), level[node.outputs[0]])
    return last
