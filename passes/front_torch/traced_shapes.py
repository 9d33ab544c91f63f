"""Shapes of the values of a traced program for given sizes, without running it: torch traced them as formulas."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from prox24_export.passes.front_torch.graph import FxGraph

TracedShape = tuple[int, ...]


def compute_shapes(graph: FxGraph, batch: int, sequence: int) -> dict[str, TracedShape]:
    """Computes the shapes of all values of a program.

    Args:
        graph: The program.
        batch: The size of every dynamic first axis of an input.
        sequence: The size of every other dynamic axis of an input.

    Returns:
        Shapes by name of the value, without those that depend on what the inputs hold.
    """
    nodes = {node.name: node for node in graph.program.graph.nodes}
    sizes: dict[Any, int] = {}
    for name in (value.name for value in graph.inputs):
        for axis, symbol in _list_symbols(nodes[name]):
            sizes.setdefault(symbol, batch if axis == 0 else sequence)
    computed = {name: _compute_shape(node.meta.get("val"), sizes) for name, node in nodes.items()}
    return {name: shape for name, shape in computed.items() if shape is not None}


def _list_symbols(node: fx.Node) -> Iterator[tuple[int, Any]]:
    """Yields the axis and the symbol of every dynamic size; first axes come first in each value."""
    for axis, size in enumerate(node.meta["val"].shape):
        if not isinstance(size, int):
            for symbol in sorted(size.node.expr.free_symbols, key=str):
                yield axis, symbol


def _compute_shape(value: Any, sizes: Mapping[Any, int]) -> TracedShape | None:
    """Puts sizes into the formulas of a shape; None where the value is no tensor, or a formula has other symbols."""
    if not isinstance(value, Tensor):
        return None
    formulas: list[Any] = [size if isinstance(size, int) else size.node.expr.subs(sizes) for size in value.shape]
    known = all(isinstance(formula, int) or formula.is_Integer for formula in formulas)
    return tuple(map(int, formulas)) if known else None
