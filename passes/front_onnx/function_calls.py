"""Functions of a model that call each other: how many nodes they stand for, before anybody writes them out.

A function that calls another one twice, which calls a third one twice, and so on, doubles with every step: a file of a
few kilobytes then stands for more nodes than any machine can hold, and every reader that follows the calls hangs.
"""

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

import onnx

from prox24_export.errors import InputError

MOST_NODES = 1_000_000  # of a model with all calls written out
MOST_DEPTH = 100  # calls within each other: readers follow them by recursion
FunctionName = tuple[str, str, str]
"""Domain, name and overload of a function."""


def expect_bounded_calls(model: onnx.ModelProto, name: str) -> None:
    """Expects functions that do not call themselves, and stand for no more nodes than a model can have.

    Args:
        model: The model.
        name: What messages call it.

    Raises:
        InputError: A function calls itself, by way of others or not, calls lie too deep within each other, or there are
            too many nodes.
    """
    functions: dict[FunctionName, onnx.FunctionProto] = {
        (function.domain, function.name, function.overload): function for function in model.functions
    }
    calls = {key: set(_walk_calls(function.node)) & functions.keys() for key, function in functions.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        looped = error.args[1][0][1]
        raise InputError(f"{name} is not a valid ONNX model: its function {looped} calls itself.") from error
    sizes: dict[FunctionName, int] = {}
    depths: dict[FunctionName, int] = {}
    for key in order:
        depths[key] = 1 + max((depths[call] for call in calls[key]), default=0)
        sizes[key] = sum(1 + sizes.get(call, 0) for call in _walk_calls(functions[key].node))
    deepest = max(depths.values(), default=0)
    if deepest > MOST_DEPTH:
        raise InputError(
            f"{name} has functions that call each other {deepest:,} deep. Expected at most {MOST_DEPTH}; export it "
            "without functions."
        )
    total = sum(1 + sizes.get(call, 0) for call in _walk_calls(model.graph.node))
    if total > MOST_NODES:
        raise InputError(
            f"{name} stands for {total:,} nodes once its functions are written out. Expected at most {MOST_NODES:,}; "
            "export it without functions."
        )


def _walk_calls(nodes: Sequence[onnx.NodeProto]) -> Iterator[FunctionName]:
    """Yields the operator of every node, those in bodies included."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node.domain, node.op_type, node.overload
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                pending.extend(body.node)
