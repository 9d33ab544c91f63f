"""Chooses where quantisers stand, and says of everything that stays in float why.

The rules follow what NVIDIA's builder of TensorRT for RTX 1.7.1 did with small graphs, whose layers it lists with the
types that they read, store and write:

- A Conv, MatMul or Gemm reads and stores INT8 where its activation comes from a per-tensor DequantizeLinear and its
  weight, in one scale per output channel or one for all, from another. Bias and zero points change nothing of that.
- Biases stay float: the builder refuses an int32 bias behind DequantizeLinear ("input has type Int32 but must have type
  FP8, FP4, Int4, Int8, or UInt8"). `onnxruntime.quantization` writes just that unless `QuantizeBias` is off. It also
  quantises what is between product, bias and activation function.
- The product with one scale per channel, a bias or an activation comes out of its matrix kernel in float. The kernel
  behind it applies these and the quantiser together, and it is this one that writes INT8. It does so only for a
  quantiser behind bias and activation function, so quantisers stand there and not between them.
- An Add of two activations is computed in the kernel that quantises its result. It reads INT8 on the branches that are
  quantised, which is why both are.
- A quantiser behind Reshape and Transpose is moved in front of them by the builder, but not as far as a layer before a
  Split. Those of queries and keys therefore stand right behind it.
- A product of two activations that both come from quantised layers, as of queries and keys, is quantised: it runs in
  INT8, and so does the layer that makes both of them before a Split, which had been fused into a float kernel.
- A product with what Softmax makes stays float: 1/127 is too coarse for the weights of a hundred tokens, and an INT8
  operand beside a float one is dequantised first.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Candidate, Reason, Skipped

ACTIVATIONS = {
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Clip"),
    *("Softplus", "Softsign", "Mish", "Swish", "Identity"),
}  # operators of one activation, which builders compute behind a product
WITH_CONSTANT = {"Add", "Mul", "Sub", "Div"}  # the same, where the other operand is a constant
POOLS = {
    "MaxPool",
    "GlobalMaxPool",
}  # the largest of integers is the integer of the largest: one scale serves both ends
SHAPE_ONLY = {"Shape", "Size"}  # read no value
LAYOUT = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
POINTWISE = ACTIVATIONS | WITH_CONSTANT | {"Split", "Erf", "Exp", "Pow", "Sqrt", "Where"}

OF_ACTIVATIONS = "a product of two activations that do not both come from quantised layers"


@dataclass(frozen=True)
class QuantisedWeight:
    """A stored weight that is quantised.

    Attributes:
        name: Its name.
        axis: The stored axis of the output channels.
        layout: How it becomes a matrix [N, K].
        nodes: Names of the nodes that multiply by it.
    """

    name: str
    axis: int
    layout: Layout
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Where quantisers stand.

    Attributes:
        weights: Weights that become INT8, by name.
        readers: By name of the activation, the nodes that read it quantised, each with the index of its input.
        tied: By name of the activation, the one whose scale it takes, because both hold the same values.
        kept: By name of the node, why it stays in float.
        float_outputs: By name of a quantised node, why its result is not quantised.
    """

    weights: Mapping[str, QuantisedWeight]
    readers: Mapping[str, tuple[tuple[str, int], ...]]
    tied: Mapping[str, str]
    kept: Mapping[str, str]
    float_outputs: Mapping[str, str]


@dataclass
class PlacementSearch:
    """One search for the places of quantisers.

    Attributes:
        nodes: The nodes of the main graph by name.
        operators: What was recognised as linear in it.
        unsafe: By name of a value, why it cannot be quantised.
        keep: By name of a node, why it stays in float in any case.
    """

    nodes: Mapping[str, ir.Node]
    operators: Sequence[Candidate | Skipped]
    constants: AbstractSet[str]
    unsafe: Mapping[str, str] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)

    def find(self) -> Placement:
        """Finds the places. Weights of which one use stays in float stay float altogether."""
        kept = {entry.name: _explain_skipped(entry) for entry in self.operators if isinstance(entry, Skipped)}
        candidates = [entry for entry in self.operators if isinstance(entry, Candidate)]
        kept |= {entry.use.node: why for entry in candidates if (why := self._explain(entry))}
        kept |= self._spread(candidates, kept)
        chosen = [entry for entry in candidates if entry.use.node not in kept]
        weights: dict[str, QuantisedWeight] = {}
        readers: dict[str, list[tuple[str, int]]] = {}
        for entry in chosen:
            node = entry.use.node
            before = weights.get(entry.weight)
            both = (*before.nodes, node) if before else (node,)
            weights[entry.weight] = QuantisedWeight(
                entry.weight, find_channel_axis(entry.layout) or 0, entry.layout, both
            )
            readers.setdefault(entry.use.activation, []).append((node, self._index(entry)))
        names = {entry.use.node for entry in chosen}
        for product in self._find_products(names):
            kept.pop(str(product.name), None)
            for index in range(2):
                name, reader = self._move_ahead(product, index)
                readers.setdefault(name, []).append(reader)
        for add in self._find_residuals(names):
            for index, value in enumerate(add.inputs):
                readers.setdefault(str(value.name if value else ""), []).append((str(add.name), index))
        tied = self._tie(readers)
        quantised = {reader for some in readers.values() for reader in some}
        floats = {entry.use.node: why for entry in chosen if (why := self._explain_output(entry.use.node, quantised))}
        return Placement(weights, {name: tuple(some) for name, some in readers.items()}, tied, kept, floats)

    def _index(self, entry: Candidate) -> int:
        inputs = [None if value is None else value.name for value in self.nodes[entry.use.node].inputs]
        return inputs.index(entry.use.activation)

    def _explain(self, entry: Candidate) -> str:
        """Why a linear layer stays in float; empty where it is quantised."""
        reasons = (
            (entry.use.node in self.keep, self.keep.get(entry.use.node, "")),
            (entry.dtype != "float32", f"its weight is {entry.dtype}: INT8 is written for float32"),
            (bool(np.isfinite(entry.limit)), "its weight is stored behind a Cast"),
            (entry.use.expert is not None, "its weight is one of several experts"),
            (find_channel_axis(entry.layout) is None, "no stored axis of its weight is that of the output channels"),
            (self._index(entry) != 0, "its weight is the left operand, which takes no scale per channel"),
        )
        return next((why for holds, why in reasons if holds), self.unsafe.get(entry.use.activation, ""))

    def _spread(self, candidates: Sequence[Candidate], kept: Mapping[str, str]) -> dict[str, str]:
        """The nodes that stay in float because another use of their weight does."""
        first = {entry.weight: entry.use.node for entry in reversed(candidates) if entry.use.node in kept}
        return {
            entry.use.node: f"it shares its weight with {first[entry.weight]}, which stays in float"
            for entry in candidates
            if entry.weight in first and entry.use.node not in kept
        }

    def _find_residuals(self, chosen: AbstractSet[str]) -> Iterator[ir.Node]:
        """Finds the Adds of two activations of which one comes from a quantised layer, which nothing else reads."""
        found = set()
        for name in chosen:
            end = self._find_end(self.nodes[name].outputs[0])
            for node, _ in end.uses():
                other = [value for value in node.inputs if value is not end]
                joins = node.op_type == "Add" and node.domain in ONNX_DOMAINS and len(end.uses()) == 1 and other
                safe = joins and not any(str(value.name) in self.unsafe for value in node.inputs if value)
                if safe and node.name in self.nodes and not self._is_constant(other[0]):
                    found.add(str(node.name))
        return (node for name, node in self.nodes.items() if name in found)

    def _find_products(self, chosen: AbstractSet[str]) -> Iterator[ir.Node]:
        """Finds the products of two activations that both come from quantised layers."""
        for name, node in self.nodes.items():
            values = node.inputs[:2]
            if node.op_type == "MatMul" and name not in chosen and not any(map(self._is_constant, values)):
                safe = not any(str(value.name) in self.unsafe for value in values if value)
                if safe and name not in self.keep and all(self._comes_from(value, chosen) for value in values):
                    yield node

    def _move_ahead(self, node: ir.Node, index: int) -> tuple[str, tuple[str, int]]:
        """Finds what a node reads in front of layout operators: the name of the value, and its reader there."""
        value = node.inputs[index]
        while value is not None and (before := value.producer()) is not None:
            if before.op_type not in LAYOUT or len(value.uses()) > 1 or before.name not in self.nodes:
                break
            node, index, value = before, 0, before.inputs[0]
        return str(value.name if value else ""), (str(node.name), index)

    def _comes_from(self, value: ir.Value | None, chosen: AbstractSet[str]) -> bool:
        """Whether a value is the result of a chosen node, past bias and layout."""
        while value is not None and (node := value.producer()) is not None and node.name in self.nodes:
            if node.name in chosen:
                return True
            if node.op_type not in LAYOUT | WITH_CONSTANT | {"Split"}:
                return False
            moving = [given for given in node.inputs if not self._is_constant(given)]
            if len(moving) != 1:
                return False
            value = moving[0]
        return False

    def _find_end(self, value: ir.Value) -> ir.Value:
        """Finds the value behind the bias and the activation function of a product: what a builder fuses with it."""
        while len(value.uses()) == 1 and not value.is_graph_output():
            ((node, _),) = value.uses()
            others = [other for other in node.inputs if other is not value]
            alone = node.op_type in ACTIVATIONS | WITH_CONSTANT and all(map(self._is_constant, others))
            if not alone or node.domain not in ONNX_DOMAINS or node.name not in self.nodes:
                break
            value = node.outputs[0]
        return value

    def _tie(self, readers: dict[str, list[tuple[str, int]]]) -> dict[str, str]:
        """Quantises what a maximum pool reads where what it makes is quantised. Both take one scale."""
        tied = {}
        for name in list(readers):
            (node,) = {self.nodes[reader].inputs[index].producer() for reader, index in readers[name]}  # type: ignore[union-attr]
            while node is not None and node.op_type in POOLS and node.name in self.nodes and node.inputs[0] is not None:
                source = str(node.inputs[0].name)
                if source in self.unsafe:
                    break
                readers.setdefault(source, []).append((str(node.name), 0))
                tied[str(node.outputs[0].name)] = source
                node = node.inputs[0].producer()
        return tied

    def _explain_output(self, name: str, quantised: AbstractSet[tuple[str, int]]) -> str:
        """Why the result of a quantised layer is not quantised; empty where every reader takes it quantised."""
        pending, seen = [self.nodes[name].outputs[0]], set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value.is_graph_output():
                return "it is an output of the model, which keeps its type"
            for node, index in value.uses():
                if (str(node.name), index) in quantised or node.op_type in SHAPE_ONLY:
                    continue
                if node.op_type not in POINTWISE | LAYOUT or node.domain not in ONNX_DOMAINS:
                    return f"{node.op_type} {node.name} reads it, which stays in float"
                pending.extend(node.outputs)
        return ""

    def _is_constant(self, value: ir.Value | None) -> bool:
        return value is None or str(value.name) in self.constants


def find_channel_axis(layout: Layout) -> int | None:
    """Finds the stored axis along which the rows of the matrix [N, K] lie; None where there is no such axis."""
    rows = layout.shape[0]
    for axis, size in enumerate(layout.stored):
        if size == rows:
            shape = [1] * len(layout.stored)
            shape[axis] = size
            index = np.broadcast_to(np.arange(rows, dtype=np.int32).reshape(shape), layout.stored)
            if bool((layout.to_matrix(index) == np.arange(rows, dtype=np.int32)[:, None]).all()):
                return axis
    return None


def _explain_skipped(entry: Skipped) -> str:
    if entry.reason is Reason.NOT_CONSTANT and entry.weight is None:
        return OF_ACTIVATIONS
    return entry.sentence.replace("TensorRT has no sparse kernel for it", "it is not pruned and stays in float")
