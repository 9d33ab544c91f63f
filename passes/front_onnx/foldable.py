"""Finds the weights that nodes compute from constants alone, and what may safely be computed of them beforehand.

A file of a few bytes can describe a tensor of any size. Nothing is computed before the sizes of all values on the way
are known, and small beside what the file stores.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from prox24_export.passes.front_onnx.constant_shapes import ConstantType
from prox24_export.passes.front_onnx.constants import (
    FLOAT_TYPES,
    ONNX_DOMAINS,
    RESHAPED,
    Refusal,
    find_stored_tensor,
    resolve_constant,
)
from prox24_export.passes.front_onnx.linear_operators import MATRIX, MULTIPLY

PRUNED = {"MatMul", "Gemm", "Conv"}  # operators whose weights are made sparse
LONGEST = 500  # nodes that compute one weight
MOST_GROWTH = 4  # bytes of results for each byte that is stored
MOST_WORK = 64  # bytes that are read and written on the way for each byte that is stored
ALWAYS_SMALL = 1 << 16  # bytes that are never too many

PARTS = {"Gather", "GatherElements", "GatherND", "Shape", "Size", "Slice", "Split"}  # they read only what they return
LAYOUTS = {"Concat", "Constant", "DepthToSpace", "Expand", "Flatten", "Identity", "Pad", "Reshape", "SpaceToDepth"}
LAYOUTS |= {"Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Cast", "CastLike", "ConstantOfShape", "EyeLike"}
ARITHMETIC = {"Abs", "Add", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log"}
ARITHMETIC |= {"Max", "Mean", "Min", "Mod", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign"}
ARITHMETIC |= {"Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "And", "Not", "Or", "Xor", "Where"}
ARITHMETIC |= {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
REDUCTIONS = {f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")}
REDUCTIONS |= {"ReduceSumSquare", "BatchNormalization", "InstanceNormalization", "LpNormalization", "CumSum"}
FOLDED = PARTS | LAYOUTS | ARITHMETIC | REDUCTIONS | {"MatMul", "Gemm"}  # none draws, quantises or has a body


@dataclass(frozen=True)
class Chain:
    """The nodes that compute a weight from stored tensors.

    Attributes:
        weight: The value.
        nodes: The nodes.
        leaves: The initializers that they read.
    """

    weight: ir.Value
    nodes: tuple[ir.Node, ...]
    leaves: tuple[ir.Value, ...]

    @property
    def operator(self) -> str:
        """Operator of the node that computes the weight."""
        return next(node.op_type for node in self.nodes if self.weight in node.outputs)

    @property
    def values(self) -> Iterator[ir.Value]:
        """All that is read or computed on the way."""
        yield from self.leaves
        for node in self.nodes:
            yield from (value for value in node.outputs if value.name)


def find_computed_weights(model: ir.Model) -> list[ir.Value]:
    """Finds the values of the main graph that nodes compute from constants, and that multiply an activation.

    Layout operators between such a value and its product stay where they are, so that a weight that is used in several
    layouts is one weight.
    """
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        if node.domain not in ONNX_DOMAINS or node.op_identifier() in model.functions:
            continue
        for index in MULTIPLY[node.op_type] if node.op_type in PRUNED else ():
            weight, other = (resolve_constant(node.inputs[place]) for place in (index, 1 - index))
            if isinstance(weight, Refusal) and weight.computed and isinstance(other, Refusal) and other.is_activation:
                found[weight.computed] = None
    return list(found)


def find_chain(weight: ir.Value, model: ir.Model) -> Chain | None:
    """Finds the nodes that compute a value from constants; None where one of them may not be computed beforehand."""
    nodes: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, None] = {}
    pending = [weight]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            if not value.is_initializer() or value.is_graph_input():  # sparse, or whoever runs the model may replace it
                return None
            leaves[value] = None
        elif node not in nodes:
            is_standard = node.domain in ONNX_DOMAINS and node.op_identifier() not in model.functions
            if node.op_type not in FOLDED or not is_standard or len(nodes) == LONGEST:
                return None
            nodes[node] = None
            pending.extend(value for value in node.inputs if value is not None)
    return Chain(weight, tuple(nodes), tuple(leaves))


def choose_safe(
    chains: Sequence[Chain], types: Mapping[str, ConstantType], *, stored: int, room: int
) -> Iterator[list[Chain]]:
    """Chooses the chains whose cost is known and small, and yields those together that read the same large tensor.

    Args:
        chains: The chains.
        types: Types and shapes of constants by name, as far as they are known.
        stored: Bytes that the whole model stores.
        room: Bytes of results for which there is room.
    """
    groups: dict[ir.Value | None, _Group] = {}
    for chain in chains:
        sizes = {value: _count_bytes(types.get(str(value.name))) for value in chain.values}
        if None in sizes.values() or not _can_be_matrix(chain.weight, types[str(chain.weight.name)].shape):
            continue
        known = {value: size or 0 for value, size in sizes.items()}
        largest = max(filter(_is_stored, known), key=known.__getitem__, default=None)
        ends = [value for value in (chain.weight, largest) if value is not None]
        if any(types[str(value.name)].kind not in FLOAT_TYPES for value in ends):
            continue  # a weight that is stored as integers shall not grow
        groups.setdefault(largest, _Group([], {})).add(chain, known)
    most = max(MOST_WORK * stored, ALWAYS_SMALL)
    for group in groups.values():
        if group.is_small and group.work <= most and group.results <= room:
            most -= group.work
            room -= group.results
            yield group.chains


@dataclass
class _Group:
    """Chains whose largest tensor is the same, so that it is read once.

    Attributes:
        chains: The chains.
        sizes: Bytes of every value on the way.
    """

    chains: list[Chain]
    sizes: dict[ir.Value, int]

    def add(self, chain: Chain, sizes: Mapping[ir.Value, int]) -> None:
        self.chains.append(chain)
        self.sizes.update(sizes)

    @property
    def results(self) -> int:
        return sum(self.sizes[chain.weight] for chain in self.chains)

    @cached_property
    def work(self) -> int:
        """Bytes that are read and written."""
        nodes = dict.fromkeys(node for chain in self.chains for node in chain.nodes)
        read = [value for node in nodes if node.op_type not in PARTS for value in node.inputs if value is not None]
        return sum(self.sizes.values()) + sum(self.sizes[value] for value in read)

    @property
    def is_small(self) -> bool:
        stored = sum(size for value, size in self.sizes.items() if _is_stored(value))
        return self.results <= max(MOST_GROWTH * stored, ALWAYS_SMALL) and self.work <= max(
            MOST_WORK * stored, ALWAYS_SMALL
        )


def _can_be_matrix(value: ir.Value, shape: Sequence[int]) -> bool:
    return len(shape) >= MATRIX or any(node.op_type in RESHAPED for node, _ in value.uses())


def _is_stored(value: ir.Value) -> bool:
    return find_stored_tensor(value) is not None


def _count_bytes(found: ConstantType | None) -> int | None:
    if found is None:
        return None
    try:
        return math.prod(found.shape) * ir.DataType(found.kind).bitwidth // 8
    except (TypeError, ValueError):  # strings, and what has no type
        return None
