"""What a diagnosis has to know of a pruned layer, put together from the report and the layer itself."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prox24_export.passes.graph.activations import Patches
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.results.report import LayerReport

LayerPrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]


@dataclass(frozen=True)
class PrunedLayer:
    """One node that multiplies by a pruned weight, in the file that an engine is built from.

    Attributes:
        name: The name of the node.
        op: The node's operator.
        k: The reduction dimension; for a convolution, C_in times the kernel's size.
        n: The output dimension.
        channels: The number of entries that are contiguous along K: K itself, or C_in for a convolution.
        group: The number of groups of a convolution; 1 for other operators.
        precision: The type of the multiplication, which is `int8` or `fp8` behind QuantizeLinear → DequantizeLinear.
        output_is_quantised: Whether a QuantizeLinear follows; None where that is not known.
        is_two_four: Whether the node's weight is 2:4 in that file.
    """

    name: str
    op: str
    k: int
    n: int
    channels: int
    group: int = 1
    precision: LayerPrecision = "fp16"
    output_is_quantised: bool | None = None
    is_two_four: bool = True

    @property
    def is_quantised(self) -> bool:
        """Whether its operands come through QuantizeLinear → DequantizeLinear."""
        return self.precision in {"int8", "fp8"}


def list_pruned_layers(
    rows: Sequence[LayerReport],
    linears: Sequence[Linear],
    precision: LayerPrecision,
    *,
    overrides: Mapping[str, LayerPrecision] | None = None,
    quantised_outputs: Mapping[str, bool] | None = None,
    wrong: Collection[str] = (),
) -> tuple[PrunedLayer, ...]:
    """Lists every node that multiplies by a pruned weight; one weight may have several nodes.

    Args:
        rows: The layers of the report; dense ones are left out.
        linears: The layers themselves, by the same names.
        precision: The precision of the file that is built.
        overrides: The precision of the nodes where it differs, because they are kept in fp32 or quantised.
        quantised_outputs: Whether a QuantizeLinear follows, by node.
        wrong: The nodes or layers whose weight is not 2:4 in that file.
    """
    known = {linear.name: linear for linear in linears}
    overrides, quantised_outputs = overrides or {}, quantised_outputs or {}
    layers = []
    for row in rows:
        if row.state != "sparse" or row.k is None or row.n is None:
            continue
        linear = known.get(row.name)
        nodes = {use.node: _count_channels(row.k, use) for use in linear.uses} if linear else {row.name: row.k}
        layers += [
            PrunedLayer(
                node,
                row.op,
                row.k,
                row.n,
                channels,
                precision=overrides.get(node, precision),
                output_is_quantised=quantised_outputs.get(node),
                is_two_four=node not in wrong and row.name not in wrong,
            )
            for node, channels in nodes.items()
        ]
    return tuple(layers)


def _count_channels(k: int, use: Use) -> int:
    return k // math.prod(use.view.kernel) if isinstance(use.view, Patches) else k
