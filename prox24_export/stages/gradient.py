"""Which pruned weights a gradient from the outputs reaches: only these can be refined."""

from collections.abc import Sequence

import numpy as np

from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.experts import split_part_name
from prox24_export.passes.graph.protocol import Feeds, Linear, TracedGraph
from prox24_export.validation.arrays import is_float, read_output


def find_reached(function: Differentiable, linears: Sequence[Linear]) -> list[Linear]:
    """Finds the layers whose weight is a parameter of the differentiable function, in the order given."""
    return [linear for linear in linears if _is_parameter(linear.weight, function)]


def why_not_reached(
    function: Differentiable, graph: TracedGraph, linears: Sequence[Linear], feeds: Feeds
) -> str | None:
    """Tells why the refinement cannot work because a gradient does not reach weights; None where it can.

    A weight that no gradient reaches keeps its solved value, and while the others are refined it has its dense one. So
    it must not change what they are refined for: the refinement works only where it leads to no output of floats. A
    weight that is stored as integers is known to the function, and has its solved value there.

    Args:
        function: The model as a differentiable function.
        graph: The model.
        linears: The layers that can be pruned.
        feeds: One sample, which tells what outputs hold.
    """
    outputs = dict(zip(graph.outputs, map(read_output, graph.runner()(feeds)), strict=True))
    floats = {name for name, output in outputs.items() if is_float(output)}
    if not floats:
        kinds = {output.dtype.kind for output in outputs.values() if isinstance(output, np.ndarray)}
        held = "are integers" if kinds <= {"i", "u"} and kinds else "do not hold floats"
        return f"no gradient reaches weight {linears[0].weight}: the model's outputs {held}"
    reached = {linear.weight for linear in find_reached(function, linears)}
    if not reached and all(linear.weight in function.dequantised for linear in linears):
        return "its pruned weights are stored as integers, which stay as their layers were solved"
    for linear in linears:
        if linear.weight not in reached | function.dequantised.keys() and floats & _find_read_by(graph, linear):
            return f"no gradient reaches weight {linear.weight}, and outputs of floats depend on it"
    return None


def _is_parameter(weight: str, function: Differentiable) -> bool:
    try:
        whole, _ = split_part_name(weight, function.parameters)
    except KeyError:
        return False
    return whole in function.parameters


def _find_read_by(graph: TracedGraph, linear: Linear) -> set[str]:
    """Finds the names of all values that depend on a layer's weight."""
    nodes = {use.node for use in linear.uses}
    changed: set[str] = set()
    for node in graph.nodes:
        if node.name in nodes or not changed.isdisjoint(node.inputs):
            changed.update(node.outputs)
    return changed
