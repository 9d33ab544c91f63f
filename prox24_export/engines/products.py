"""The products with a constant weight that a call of a model runs, and how many rows each of them multiplies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import StageRunner
from prox24_export.passes.find_linears import find_live_nodes
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.experts import name_part
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Feeds, Linear, Node, Reason, Skipped, TracedGraph, Use

RATE = 2  # sparse matrix instructions run at most twice as fast as dense ones, by the vendor's figures
INSIDE = {Reason.IN_SUBGRAPH, Reason.IN_FUNCTION}
CHANNELS = 1  # axis of the input of a convolution
OPERATIONS = 2  # a multiplication and an addition


@dataclass
class ListedProducts:
    """What there is to count, and what cannot be counted.

    Attributes:
        products: One layer of each product.
        missing: The number of layers that cannot be counted, by what they are and why.
        of_activations: The number of products of two activations.
    """

    products: list[Linear]
    missing: Counter[str]
    of_activations: int = 0


def list_products(graph: TracedGraph, found: Sequence[Linear | Skipped]) -> ListedProducts:
    """Makes one layer of each product, to observe its result, and counts what cannot be observed, by reason.

    Observing results rather than inputs needs no view: tokens are the result's entries over N, for rows and for
    convolutions alike. Only the rows of an expert, and those of a transposed convolution, follow from the input.
    """
    nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
    live = find_live_nodes(graph)
    listed = ListedProducts([], Counter())
    for layer in found:
        node = nodes.get(layer.name)
        if isinstance(layer, Linear):
            uses = [use for use in layer.uses if use.node in live]
            listed.products += [_observe_product(layer, layer.k, layer.n, nodes[use.node], use) for use in uses]
        elif layer.reason is Reason.NO_ACTIVATION or (node is not None and node.name not in live):
            continue  # no call computes it
        elif layer.reason is Reason.IN_FUNCTION and node is not None:
            continue  # a call: the layers of the function are told by themselves
        elif node is None or layer.reason in INSIDE:
            listed.missing[f"{layer.op}: {layer.reason.value}"] += 1
        elif layer.k and layer.n:
            listed.products.append(_observe_product(layer, layer.k, layer.n, node, None))
        elif _is_of_activations(graph, layer, node):
            listed.of_activations += 1
        else:
            listed.missing[f"{layer.op}: {layer.reason.value}"] += 1
    return listed


def _is_of_activations(graph: TracedGraph, layer: Skipped, node: Node) -> bool:
    """Whether a node multiplies two activations; a bias is no operand of the product."""
    if layer.reason is Reason.EINSUM:
        return graph.constants.isdisjoint(node.inputs)
    operands = node.inputs[1:3] if layer.op == "addmm" else node.inputs[:2]
    return layer.reason is Reason.NOT_CONSTANT and graph.constants.isdisjoint(operands)


def _observe_product(layer: Linear | Skipped, k: int, n: int, node: Node, use: Use | None) -> Linear:
    if use and use.expert:
        observed = Use(node.name, use.activation, use.view, expert=use.expert)
    elif isinstance(layer, Skipped) and layer.reason is Reason.TRANSPOSED_CONV:
        observed = Use(node.name, node.inputs[0], Rows(CHANNELS))
    else:
        observed = Use(node.name, node.outputs[0], Rows())
    weight = name_part(node.name, observed.expert.index if observed.expert else None)
    return Linear(layer.name, layer.op, weight, "float32", Layout((n, k)), k, n, (observed,))


def count_tokens(graph: TracedGraph, products: Sequence[Linear], feeds: Feeds) -> dict[Linear, int | None]:
    """Counts the rows that each product multiplies; None where its result is no tensor."""
    tokens: dict[Linear, int | None] = {}
    values: dict[str, Any] = dict(feeds)
    for stage in schedule(graph, products):
        results = StageRunner(graph, stage, {}).run(values)
        for layer, use in stage.observed:
            tokens[layer] = _count_rows(layer, use, results)
        values = {name: value for name, value in results.items() if name in stage.kept}
    return tokens


def _count_rows(layer: Linear, use: Use, values: Mapping[str, Any]) -> int | None:
    if use.expert is not None:
        _, rows = use.expert.rows(use.activation, values, values)
        return _count_entries(rows) // layer.k
    value = values[use.activation]
    if use.view == Rows(CHANNELS):
        return _count_entries(value) // int(value.shape[CHANNELS])
    return _count_entries(value) // layer.n if hasattr(value, "shape") else None


def _count_entries(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else int(value.size)
