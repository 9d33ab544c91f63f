"""What 2:4 can gain at most on a GPU that is named, from shapes and the GPU's peak rates: the roofline of every layer.

A product of `T` tokens, `K` and `N` takes `2·T·K·N` operations and moves the weight, its input and its result once:

    dense  = max(2·T·K·N / rate,        (K·N·b + A) / bandwidth)
    sparse = max(2·T·K·N / (2 · rate),  (K·N·b·s + A) / bandwidth)
    gain   = dense / sparse

with `b` bytes an entry, `s` the size of a compressed weight over that of a dense one, and `A` the bytes of input and
result. Two of four values are kept, with two bits each that say where they stood: `s` is 9/16 in fp16 and 5/8 in int8.
The input of a convolution counts as if its windows lay side by side, and that of a layer that stays dense not at all:
less traffic means a larger gain, so that the bound stays a bound. For the same reason attention's products of two
activations, softmax, normalisation and the start of kernels are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prox24_export.data.random_samples import draw_random
from prox24_export.engines.gpus import GPUS, GpuRates
from prox24_export.engines.products import OPERATIONS, RATE, count_tokens, list_products
from prox24_export.errors import InputError, Prox24Error, first_line
from prox24_export.option_values import GpuName
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.traced_shapes import compute_shapes
from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.protocol import Linear, Skipped, TracedGraph
from prox24_export.results.engine import GpuBound
from prox24_export.results.gain import GainLimit, GpuGain, LayerGain

FEW_CHANNELS = 256  # below which NVIDIA's engineers say that sparse kernels hardly win: TensorRT issues 3849 and 4065
FP16, INT8 = 2, 1  # bytes of an entry
TILE = 16  # entries of K that one sparse instruction takes in fp16; in int8 they are 32
LIMITS: Mapping[GainLimit, str] = {"compute": "arithmetic", "memory": "memory"}
GROUP, KEPT, INDEX_BYTES = 4, 2, 0.5  # entries of a group, those kept, and bytes that say where these stood
CHANNELS = 1


class CountedProduct(NamedTuple):
    """One product of a call: its layer, its size, and what it reads beside the weight.

    Attributes:
        layer: The layer.
        k: Reduction dimension.
        n: Output dimension.
        tokens: Rows that are multiplied.
        inputs: Entries of the input that are read at least.
        is_sparse: Whether the layer is 2:4, or would be.
    """

    layer: Linear | Skipped
    k: int
    n: int
    tokens: int
    inputs: float
    is_sparse: bool


class Times(NamedTuple):
    """Seconds of a product at least, dense and 2:4, and what the dense one waits for."""

    dense: float
    sparse: float
    limit: GainLimit


def bound_gain(
    graph: TracedGraph, found: Sequence[Linear | Skipped], gpu: GpuName, batch: int, sequence: int
) -> GpuGain:
    """Bounds what 2:4 could gain on a GPU, for one call with inputs of a given size.

    An ONNX model is run once for that, on random inputs; of a traced program only shapes are needed.

    Args:
        graph: The model.
        found: Its linear layers.
        gpu: The name of the GPU.
        batch: The size of dynamic first axes.
        sequence: The size of other dynamic axes.

    Raises:
        InputError: The model cannot be run on such inputs.
    """
    rates = GPUS[gpu]
    listed = list_products(graph, found)
    layers = {layer.name: layer for layer in found}
    tokens, inputs = _count(graph, listed.products, batch, sequence)
    counted = [
        _make_product(layers[product.name], product, count)
        for product in listed.products
        if (count := tokens.get(product)) is not None
    ]
    missing = [product.name for product in listed.products if tokens.get(product) is None]
    rows = [_describe(product, rates) for product in counted]
    whole = {
        (size, likely): _bound_whole(counted, rates, size, [row.is_likely or not likely for row in rows])
        for size in (FP16, INT8)
        for likely in (False, True)
    }
    return GpuGain(
        rates.title,
        rates.source,
        inputs,
        tuple(rows),
        fp16=whole[FP16, False],
        int8=whole[INT8, False],
        fp16_likely=whole[FP16, True],
        int8_likely=whole[INT8, True],
        not_counted=(*missing, *(f"{count} × {what}" for what, count in sorted(listed.missing.items()))),
    )


def _make_product(layer: Linear | Skipped, product: Linear, tokens: int) -> CountedProduct:
    inputs = count_inputs(layer, tokens)
    return CountedProduct(layer, product.k, product.n, tokens, inputs, is_sparse=isinstance(layer, Linear))


def bound_on_gpus(counted: Sequence[CountedProduct]) -> tuple[GpuBound, ...]:
    """Bounds what the sparse layers of a call gain together on every GPU of the table, as far as their shape may gain.

    Args:
        counted: The products of the call, dense ones included.
    """
    bounds: list[GpuBound] = []
    for name, rates in GPUS.items() if counted else ():
        likely = [product.is_sparse and not _find_doubt(product, rates) for product in counted]
        half, byte = (_bound_whole(counted, rates, size, likely) for size in (FP16, INT8))
        names = {product.layer.name for product, may in zip(counted, likely, strict=True) if may}
        bounds.append(GpuBound(name, rates.title, half, byte, len(names)))
    return tuple(bounds)


def bound_times(k: int, n: int, tokens: int, *, inputs: float, rates: GpuRates, size: int) -> Times:
    """Computes the least seconds of one product on a GPU; see the module for the formula.

    Args:
        k: Reduction dimension.
        n: Output dimension.
        tokens: Rows that are multiplied.
        inputs: Entries of the input.
        rates: The GPU.
        size: Bytes of an entry: `FP16` for fp16 and bf16, `INT8` for int8.
    """
    operations = OPERATIONS * tokens * k * n
    rate = rates.fp16 if size == FP16 else rates.int8
    moved, weight = size * (inputs + tokens * n), size * k * n
    kept = (KEPT * size + INDEX_BYTES) / (GROUP * size)
    compute, memory = operations / rate, (weight + moved) / rates.bandwidth
    sparse = max(compute / RATE, (weight * kept + moved) / rates.bandwidth)
    return Times(max(compute, memory), sparse, "compute" if compute >= memory else "memory")


def _bound_whole(counted: Sequence[CountedProduct], rates: GpuRates, size: int, gains: Sequence[bool]) -> float:
    """Time of all products dense over their time with some of the eligible ones sparse; 1 where there are none."""
    dense = sparse = 0.0
    for product, gain in zip(counted, gains, strict=True):
        times = bound_times(product.k, product.n, product.tokens, inputs=product.inputs, rates=rates, size=size)
        dense += times.dense
        sparse += times.sparse if gain and product.is_sparse and rates.has_sparse_cores else times.dense
    return dense / sparse if sparse else 1.0


def _describe(product: CountedProduct, rates: GpuRates) -> LayerGain:
    half, byte = (
        bound_times(product.k, product.n, product.tokens, inputs=product.inputs, rates=rates, size=size)
        for size in (FP16, INT8)
    )
    gains = product.is_sparse and rates.has_sparse_cores
    doubt = _find_doubt(product, rates)
    waits = f"waits for {LIMITS[half.limit]}"
    if half.limit != byte.limit:
        waits += f" in fp16, for {LIMITS[byte.limit]} in int8"
    return LayerGain(
        product.layer.name,
        product.k,
        product.n,
        product.tokens,
        fp16=half.dense / half.sparse if gains else 1.0,
        int8=byte.dense / byte.sparse if gains else 1.0,
        fp16_limit=half.limit,
        int8_limit=byte.limit,
        is_likely=not doubt,
        reason=doubt or waits,
    )


def _find_doubt(product: CountedProduct, rates: GpuRates) -> str:
    """Says why a layer will hardly gain whatever the bound; empty where nothing speaks against it."""
    layer = product.layer
    if isinstance(layer, Skipped):
        return f"stays dense: {layer.sentence}"
    if not rates.has_sparse_cores:
        return "the GPU has no sparse tensor cores"
    channels = product.k // _count_window(layer)
    if channels % TILE:
        return f"{'C_in' if channels < product.k else 'K'} is no multiple of {TILE}"
    if min(channels, product.n) < FEW_CHANNELS:
        return f"fewer than {FEW_CHANNELS} channels: sparse kernels hardly win there"
    return ""


def _count_window(layer: Linear | Skipped) -> int:
    """Entries of a convolution's window; 1 for other layers."""
    view = layer.uses[0].view if isinstance(layer, Linear) else None
    return math.prod(view.kernel) if isinstance(view, Patches) else 1


def count_inputs(layer: Linear | Skipped, tokens: int) -> float:
    """Counts the entries that a product reads at least beside the weight."""
    return tokens * layer.k / _count_window(layer) if isinstance(layer, Linear) else 0.0


def _count(
    graph: TracedGraph, products: Sequence[Linear], batch: int, sequence: int
) -> tuple[Mapping[Linear, int | None], dict[str, tuple[int, ...]]]:
    """Counts the tokens of each product in a call, and gives the shapes of its inputs."""
    if isinstance(graph, FxGraph):
        shapes = compute_shapes(graph, batch, sequence)
        counted = {product: _count_traced(product, shapes) for product in products}
        return counted, {value.name: shapes[value.name] for value in graph.inputs}
    try:
        feeds = draw_random(graph.inputs, graph.gathered_rows, {}, 1, 0, first=batch, other=sequence)[0].feeds
        tokens = count_tokens(graph, products, feeds)
    except Exception as error:
        said = str(error).rstrip(".") if isinstance(error, Prox24Error) else first_line(error)
        raise InputError(
            f"{graph.path} cannot be run on random inputs of batch {batch} to count its tokens: {said}. "
            "Leave out --gpu, or try another --batch and --sequence."
        ) from error
    return tokens, {name: tuple(value.shape) for name, value in feeds.items()}


def _count_traced(product: Linear, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Counts the tokens of a product from shapes; None where they depend on what the inputs hold, as for an expert."""
    use = product.uses[0]
    shape = shapes.get(use.activation)
    if shape is None or use.expert is not None:
        return None
    return math.prod(shape) // (shape[CHANNELS] if use.view == Rows(CHANNELS) else product.n)
