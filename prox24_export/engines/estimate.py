"""What 2:4 could gain at best, without a GPU: the share of floating-point operations that stands in pruned layers.

An estimate, never a measurement. Counted are the products with a stored weight. Not counted are products of two
activations, everything element-wise, the traffic of memory, and what `Estimate.not_counted` lists: with them the gain
is smaller still.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor

from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import StageRunner
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.experts import name_part
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Feeds, Linear, Node, Skipped, TracedGraph, Use
from prox24_export.results.engine import Estimate, ShapeShare

RATE = 2  # of sparse matrix instructions over dense ones, at most, by the vendor's figures
OPERATIONS = 2  # a multiplication and an addition

ProductShape = tuple[int, int, int]  # K, N, tokens


def estimate(
    graph: TracedGraph, found: Sequence[Linear | Skipped], sparse_names: AbstractSet[str], feeds: Feeds
) -> Estimate:
    """Runs one batch through the model, stage by stage, and counts.

    Tokens are the rows that a product multiplies: of a convolution, its output positions. A weight that is used at
    several nodes counts at each.

    Args:
        graph: The model, dense or sparse.
        found: Its linear layers.
        sparse_names: Names of those that are pruned.
        feeds: One batch, of the size to estimate for.
    """
    products, missing = _products(graph, found)
    layers, sparse = Counter[ProductShape](), Counter[ProductShape]()
    for layer, tokens in _tokens(graph, products, feeds).items():
        if tokens is None:
            missing[f"{layer.op}: its output has no known size"] += 1
            continue
        shape = layer.k, layer.n, tokens
        layers[shape] += 1
        sparse[shape] += layer.name in sparse_names
    return _summed(layers, sparse, missing)


def operations(graph: TracedGraph, layers: Sequence[Linear], feeds: Feeds) -> dict[str, float]:
    """Floating-point operations of each layer in a batch, by name; 0 where they cannot be counted. One walk for all."""
    products, _ = _products(graph, layers)
    counted = dict.fromkeys((layer.name for layer in layers), 0.0)
    for layer, tokens in _tokens(graph, products, feeds).items():
        counted[layer.name] += OPERATIONS * (tokens or 0) * layer.k * layer.n
    return counted


def amdahl(share: float) -> float:
    """`1 / (1 − share/2)`: the whole is faster by this where `share` of it runs at twice the rate."""
    return 1 / (1 - share * (1 - 1 / RATE))


def _summed(
    layers: Mapping[ProductShape, int], sparse: Mapping[ProductShape, int], missing: Mapping[str, int]
) -> Estimate:
    flops = {(k, n, tokens): float(OPERATIONS * tokens * k * n) for k, n, tokens in layers}
    total = sum(flops[shape] * count for shape, count in layers.items())
    share = sum(flops[shape] * count for shape, count in sparse.items()) / total if total else 0.0
    shapes = [
        ShapeShare(*shape, count, sparse[shape], flops[shape] * count, flops[shape] * count / total if total else 0.0)
        for shape, count in layers.items()
    ]
    ordered = sorted(shapes, key=lambda entry: (-entry.share, entry.k, entry.n, entry.tokens))
    untold = tuple(f"{count} × {what}" for what, count in sorted(missing.items()))
    return Estimate(total, share, amdahl(share), tuple(ordered), untold)


def _products(graph: TracedGraph, found: Sequence[Linear | Skipped]) -> tuple[list[Linear], Counter[str]]:
    """One layer for each product, whose observed value is the product's result; and what cannot be counted, by reason.

    Observing results rather than inputs needs no view: tokens are the result's entries over N, for rows and for
    convolutions alike. Only an expert's rows are told by its input.
    """
    nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
    products, missing = [], Counter[str]()
    for layer in found:
        if isinstance(layer, Linear):
            uses = [use for use in layer.uses if use.node in nodes]
            products += [_product(layer, layer.k, layer.n, nodes[use.node], use) for use in uses]
        elif layer.k and layer.n and layer.name in nodes:
            products.append(_product(layer, layer.k, layer.n, nodes[layer.name], None))
        else:
            missing[f"{layer.op}: {layer.reason.value}"] += 1
    return products, missing


def _product(layer: Linear | Skipped, k: int, n: int, node: Node, use: Use | None) -> Linear:
    expert = use.expert if use else None
    observed = Use(
        node.name,
        use.activation if use and expert else node.outputs[0],
        use.view if use and expert else Rows(),
        expert=expert,
    )
    weight = name_part(node.name, expert.index if expert else None)
    return Linear(layer.name, layer.op, weight, "float32", Layout((n, k)), k, n, (observed,))


def _tokens(graph: TracedGraph, products: Sequence[Linear], feeds: Feeds) -> dict[Linear, int | None]:
    """Rows that each product multiplies; None where its result is no tensor."""
    tokens: dict[Linear, int | None] = {}
    values: dict[str, Any] = dict(feeds)
    for stage in schedule(graph, products):
        results = StageRunner(graph, stage, {}).run(values)
        for layer, use in stage.observed:
            tokens[layer] = _rows(layer, use, results)
        values = {name: value for name, value in results.items() if name in stage.kept}
    return tokens


def _rows(layer: Linear, use: Use, values: Mapping[str, Any]) -> int | None:
    if use.expert is not None:
        _, rows = use.expert.rows(use.activation, values, values)
        return _entries(rows) // layer.k
    value = values[use.activation]
    return _entries(value) // layer.n if hasattr(value, "shape") else None


def _entries(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else int(value.size)
