"""What 2:4 could gain at best, without a GPU: the share of floating-point operations that stands in pruned layers.

This is an estimate, never a measurement. It counts the products with a constant weight that a call runs, also those in
functions and in the branches that are taken. It does not count products of two activations, element-wise operators,
the traffic of memory, and what `Estimate.not_counted` lists; with them the gain is smaller still.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import StageRunner
from prox24_export.passes.find_linears import FindLinears, find_live_nodes
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.experts import name_part
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Feeds, Linear, Node, Reason, Skipped, TracedGraph, Use
from prox24_export.results.engine import Estimate, ShapeShare

RATE = 2  # sparse matrix instructions run at most twice as fast as dense ones, by the vendor's figures
INSIDE = {Reason.IN_SUBGRAPH, Reason.IN_FUNCTION}
CHANNELS = 1  # axis of the input of a convolution
OPERATIONS = 2  # a multiplication and an addition

ProductShape = tuple[int, int, int]  # K, N, tokens


def estimate(
    graph: TracedGraph, found: Sequence[Linear | Skipped], sparse_names: AbstractSet[str], feeds: Feeds
) -> Estimate:
    """Runs one batch through the model, stage by stage, and counts operations.

    Tokens are the rows that a product multiplies; for a convolution, these are its output positions, and for a
    transposed one its input positions. A weight that is used at several nodes counts at each of them. What no output
    needs, and what depends on no input, is not computed in a call.

    Args:
        graph: The model, dense or sparse.
        found: The linear layers of the model.
        sparse_names: The names of the layers that are pruned.
        feeds: One batch by input name, of the size to estimate for.
    """
    if any(isinstance(layer, Skipped) and layer.reason in INSIDE for layer in found):
        with suppress(Exception):  # what the libraries cannot expand is named below
            return _estimate(*_expand(graph, found, feeds), sparse_names, feeds)
    return _estimate(graph, found, sparse_names, feeds)


def count_operations(graph: TracedGraph, layers: Sequence[Linear], feeds: Feeds) -> dict[str, float]:
    """Counts the floating-point operations of each layer in a batch, in one walk through the model.

    Args:
        graph: The model.
        layers: The layers to count for.
        feeds: The batch by input name.

    Returns:
        The number of operations by layer name; 0 where they cannot be counted.
    """
    counted = dict.fromkeys((layer.name for layer in layers), 0.0)
    for layer, tokens in _count_tokens(graph, _list_products(graph, layers).products, feeds).items():
        counted[layer.name] += OPERATIONS * (tokens or 0) * layer.k * layer.n
    return counted


def apply_amdahl(share: float) -> float:
    """Computes the speed-up by Amdahl's law where `share` of the whole runs at twice the rate: `1 / (1 − share/2)`."""
    return 1 / (1 - share * (1 - 1 / RATE))


def _estimate(
    graph: TracedGraph, found: Sequence[Linear | Skipped], sparse_names: AbstractSet[str], feeds: Feeds
) -> Estimate:
    listed = _list_products(graph, found)
    layers, sparse = Counter[ProductShape](), Counter[ProductShape]()
    for layer, tokens in _count_tokens(graph, listed.products, feeds).items():
        if tokens is None:
            listed.missing[f"{layer.op}: its output has no known size"] += 1
            continue
        shape = layer.k, layer.n, tokens
        layers[shape] += 1
        sparse[shape] += layer.name in sparse_names
    return _sum_up(layers, sparse, listed)


@dataclass
class _Listed:
    """What there is to count, and what cannot be counted.

    Attributes:
        products: One layer of each product.
        missing: The number of layers that cannot be counted, by what they are and why.
        of_activations: The number of products of two activations.
    """

    products: list[Linear]
    missing: Counter[str]
    of_activations: int = 0


def _expand(
    graph: TracedGraph, found: Sequence[Linear | Skipped], feeds: Feeds
) -> tuple[TracedGraph, list[Linear | Skipped]]:
    """Brings what runs inside functions and branches into the main graph: that graph, and its layers.

    Layers that the main graph had before stay what they were; those from inside are dense, whatever they could be.
    """
    known = {node.name for node in graph.nodes}
    expanded = graph.expand(feeds)
    layers = [layer for layer in found if isinstance(layer, Linear) or layer.reason not in INSIDE]
    for layer in FindLinears().call(graph=expanded).layers:
        if isinstance(layer, Linear):
            uses = tuple(use for use in layer.uses if use.node not in known)
            layers += [replace(layer, name=uses[0].node, uses=uses)] if uses else []
        elif layer.reason in INSIDE or layer.name not in known:
            layers.append(layer)
    return expanded, layers


def _sum_up(layers: Mapping[ProductShape, int], sparse: Mapping[ProductShape, int], listed: _Listed) -> Estimate:
    flops = {(k, n, tokens): float(OPERATIONS * tokens * k * n) for k, n, tokens in layers}
    total = sum(flops[shape] * count for shape, count in layers.items())
    share = sum(flops[shape] * count for shape, count in sparse.items()) / total if total else 0.0
    shapes = [
        ShapeShare(*shape, count, sparse[shape], flops[shape] * count, flops[shape] * count / total if total else 0.0)
        for shape, count in layers.items()
    ]
    ordered = sorted(shapes, key=lambda entry: (-entry.share, entry.k, entry.n, entry.tokens))
    untold = tuple(f"{count} × {what}" for what, count in sorted(listed.missing.items()))
    return Estimate(total, share, apply_amdahl(share), tuple(ordered), untold, listed.of_activations)


def _list_products(graph: TracedGraph, found: Sequence[Linear | Skipped]) -> _Listed:
    """Makes one layer of each product, to observe its result, and counts what cannot be observed, by reason.

    Observing results rather than inputs needs no view: tokens are the result's entries over N, for rows and for
    convolutions alike. Only the rows of an expert, and those of a transposed convolution, follow from the input.
    """
    nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
    live = find_live_nodes(graph)
    listed = _Listed([], Counter())
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


def _count_tokens(graph: TracedGraph, products: Sequence[Linear], feeds: Feeds) -> dict[Linear, int | None]:
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
