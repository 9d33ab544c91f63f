"""How the nodes of a graph depend on each other, also through what the bodies of nodes capture."""

from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter

import onnx_ir as ir

from prox24_export.passes.graph.protocol import Node


def sort_nodes(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Sorts nodes topologically. Nodes that are in order keep it; ONNX Runtime also runs files that are not."""
    position = {name: place for place, node in enumerate(nodes) for name in node.outputs}
    before = {place: {position[name] for name in node.inputs if name in position} for place, node in enumerate(nodes)}
    if all(earlier < place for place, all_earlier in before.items() for earlier in all_earlier):
        return tuple(nodes)
    return tuple(nodes[place] for place in TopologicalSorter(before).static_order())


def walk_bodies(node: ir.Node) -> Iterator[ir.Node]:
    """Yields a node and all nodes of its bodies."""
    yield node
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield from body.all_nodes()


def find_read_values(node: ir.Node, main: ir.Graph) -> Iterator[str]:
    """Yields the names of the main graph's values that a node reads, also of those that its bodies capture."""
    for inner in walk_bodies(node):
        for value in inner.inputs:
            if value is not None and value.name and (inner is node or value.graph is main):
                yield value.name
