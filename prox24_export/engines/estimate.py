"""What 2:4 could gain at best, without a GPU: the share of floating-point operations that stands in pruned layers.

This is an estimate, never a measurement. It counts the products with a constant weight that a call runs, also those in
functions and in the branches that are taken. It does not count products of two activations, element-wise operators,
the traffic of memory, and what `Estimate.not_counted` lists; with them the gain is smaller still.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace

from prox24_export.engines.gain import CountedProduct, bound_on_gpus, count_inputs
from prox24_export.engines.products import INSIDE, OPERATIONS, RATE, ListedProducts, count_tokens, list_products
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.protocol import Feeds, Linear, Skipped, TracedGraph
from prox24_export.results.engine import Estimate, ShapeShare

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
    for layer, tokens in count_tokens(graph, list_products(graph, layers).products, feeds).items():
        counted[layer.name] += OPERATIONS * (tokens or 0) * layer.k * layer.n
    return counted


def apply_amdahl(share: float) -> float:
    """Computes the speed-up by Amdahl's law where `share` of the whole runs at twice the rate: `1 / (1 − share/2)`."""
    return 1 / (1 - share * (1 - 1 / RATE))


def _estimate(
    graph: TracedGraph, found: Sequence[Linear | Skipped], sparse_names: AbstractSet[str], feeds: Feeds
) -> Estimate:
    listed = list_products(graph, found)
    layers, sparse = Counter[ProductShape](), Counter[ProductShape]()
    own, counted = {layer.name: layer for layer in found}, []
    for layer, tokens in count_tokens(graph, listed.products, feeds).items():
        if tokens is None:
            listed.missing[f"{layer.op}: its output has no known size"] += 1
            continue
        shape = layer.k, layer.n, tokens
        layers[shape] += 1
        is_sparse = layer.name in sparse_names
        sparse[shape] += is_sparse
        inputs = count_inputs(own[layer.name], tokens)
        counted.append(CountedProduct(own[layer.name], *shape, inputs, is_sparse=is_sparse))
    return replace(_sum_up(layers, sparse, listed), gpus=bound_on_gpus(counted))


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


def _sum_up(layers: Mapping[ProductShape, int], sparse: Mapping[ProductShape, int], listed: ListedProducts) -> Estimate:
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
