"""How the nodes of a graph depend on each other, also through what the bodies of nodes capture."""

from collections.abc import Callable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.constants import COMPUTED, SPARSE
from prox24_export.passes.graph.protocol import Node

RANDOM = "functions that draw random numbers"  # of a model's `meta`: looked up for every node, found once
LISTED = 5  # nodes of a circle in a message
RANDOM_OPERATORS = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def sort_nodes(nodes: Sequence[Node], where: str) -> tuple[Node, ...]:
    """Sorts nodes topologically. Nodes that are in order keep it; ONNX Runtime also runs files that are not.

    Args:
        nodes: The nodes.
        where: Their file, for messages.

    Raises:
        InputError: Nodes read each other in a circle.
    """
    position = {name: place for place, node in enumerate(nodes) for name in node.outputs}
    before = {place: {position[name] for name in node.inputs if name in position} for place, node in enumerate(nodes)}
    if all(earlier < place for place, all_earlier in before.items() for earlier in all_earlier):
        return tuple(nodes)
    try:
        return tuple(nodes[place] for place in TopologicalSorter(before).static_order())
    except CycleError as error:
        circle = " → ".join(nodes[place].name for place in error.args[1][:LISTED])
        raise InputError(
            f"{where} is not a valid ONNX model: its nodes read each other in a circle, {circle}. Export it again."
        ) from error


def mark_computed(model: ir.Model) -> None:
    """Marks the values of the main graph that nodes compute from constants alone, in whatever order the nodes stand.

    Args:
        model: The model, whose sparse initializers are marked.
    """
    readers: dict[ir.Node, list[ir.Node]] = {}
    waits_for: dict[ir.Node, int] = {}
    for node in model.graph:
        read = [value for value in _walk_read_values(node, model.graph) if not _is_stored(value)]
        producers = {producer for value in read if (producer := value.producer()) is not None}
        if is_random(node, model) or any(value.producer() is None for value in read):
            continue
        waits_for[node] = len(producers)
        for producer in producers:
            readers.setdefault(producer, []).append(node)
    ready = [node for node, count in waits_for.items() if not count]
    while ready:
        node = ready.pop()
        for value in node.outputs:
            value.meta[COMPUTED] = True
        for reader in readers.get(node, ()):
            waits_for[reader] -= 1
            if not waits_for[reader]:
                ready.append(reader)


def is_random(node: ir.Node, model: ir.Model) -> bool:
    """Whether a node, one of its bodies or a function that it calls draws random numbers."""
    if RANDOM not in model.meta:
        model.meta[RANDOM] = find_functions(model, lambda inner: inner.op_type in RANDOM_OPERATORS)
    functions = model.meta[RANDOM]
    return any(inner.op_type in RANDOM_OPERATORS or inner.op_identifier() in functions for inner in walk_bodies(node))


def find_functions(model: ir.Model, is_wanted: Callable[[ir.Node], bool]) -> set[ir.OperatorIdentifier]:
    """Finds the functions that hold a wanted node, or call one that does; each is looked at once, however often called.

    Args:
        model: The model.
        is_wanted: Whether a node is wanted.
    """
    callers: dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]] = {}
    found: set[ir.OperatorIdentifier] = set()
    for key, function in model.functions.items():
        for node in function.all_nodes():
            callers.setdefault(node.op_identifier(), set()).add(key)
            if is_wanted(node):
                found.add(key)
    pending = list(found)
    while pending:
        new = callers.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


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
    return (str(value.name) for value in _walk_read_values(node, main))


def _walk_read_values(node: ir.Node, main: ir.Graph) -> Iterator[ir.Value]:
    for inner in walk_bodies(node):
        for value in inner.inputs:
            if value is not None and value.name and (inner is node or value.graph is main):
                yield value


def _is_stored(value: ir.Value) -> bool:
    return SPARSE in value.meta or value.is_initializer()
