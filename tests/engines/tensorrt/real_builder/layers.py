"""The layers of an engine, as the builder's verbose log lists them at its end."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prox24_export.engines.diagnosis.layer_names import read_onnx_nodes

LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<reads>.*?)(?:, Constants: (?P<stores>.*?))?"
    r", Outputs: (?P<writes>.*?)(?:, TacticName: (?P<tactic>.*?))?, StreamId: \d+(?:, .*?)?, Metadata:(?P<metadata>.*)"
)
TYPE = re.compile(r"Datatype: (\w+)")
POINTWISE = "kgen"  # a generated kernel: it may hold a node's bias or cast while another layer holds its product
INT8 = "Int8"


@dataclass(frozen=True)
class RealLayer:
    """One layer of an engine.

    Attributes:
        name: The builder's name; `__mye123` where it made one up.
        kind: What computes it: `gemm`, `correlation` (a convolution), `runtime_fusion` (a product and what follows),
            `kgen` (a generated kernel without matrix instructions), and others.
        nodes: The ONNX nodes that it holds by its metadata, whole or in part.
        reads: The builder's type of each input, such as `Half`, `Float`, `Int8`.
        stores: The type of each constant.
        writes: The type of each output.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    stores: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Int8Use:
    """Where a node's product is in INT8. A sparse kernel is only likely where all three are true.

    Attributes:
        layer: The name of the layer that computes the product; empty where no layer names the node.
        reads: Whether the layer reads activations in INT8.
        stores: Whether it stores the weight in INT8.
        writes: Whether its results leave it in INT8.
        leaves: Whether a layer that holds the node writes INT8: this one, or the kernel behind it, which applies scales
            of channels, bias, activation function and quantiser.
    """

    layer: str = ""
    reads: bool = False
    stores: bool = False
    writes: bool = False
    leaves: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether data stay in INT8 from what is read to what is written."""
        return self.reads and self.stores and self.writes


def read_layers(messages: Iterable[str]) -> Iterator[RealLayer]:
    """Reads the layers of the finished engine from the messages of its build."""
    for message in messages:
        for line in message.split("\n"):  # not splitlines: U+001E and U+001F stand between nodes of the metadata
            if found := LAYER.fullmatch(line.strip(" ")):
                yield RealLayer(
                    found["name"],
                    found["kind"],
                    read_onnx_nodes(found["metadata"]),
                    *(tuple(TYPE.findall(found[part] or "")) for part in ("reads", "stores", "writes")),
                )


def find_product(layers: Iterable[RealLayer], node: str) -> RealLayer | None:
    """Finds the layer that computes a node's product: the first that names the node, generated kernels last."""
    naming = [layer for layer in layers if node in layer.nodes]
    return min(naming, key=lambda layer: layer.kind == POINTWISE, default=None)


def find_int8_uses(layers: Iterable[RealLayer], nodes: Iterable[str]) -> dict[str, Int8Use]:
    """Finds for each ONNX node whether its product reads, stores and writes INT8.

    Args:
        layers: The layers of the engine.
        nodes: The nodes that multiply by a weight, such as those of pruned layers.
    """
    known = list(layers)
    return {node: _describe(find_product(known, node), known, node) for node in nodes}


def _describe(layer: RealLayer | None, layers: Iterable[RealLayer], node: str) -> Int8Use:
    if layer is None:
        return Int8Use()
    leaves = any(INT8 in holder.writes for holder in layers if node in holder.nodes)
    return Int8Use(layer.name, INT8 in layer.reads, INT8 in layer.stores, INT8 in layer.writes, leaves)
