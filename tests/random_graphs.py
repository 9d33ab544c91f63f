"""Random valid ONNX models of the operators that the passes know, the same for a seed on every machine.

Each value has the batch as its first axis. A weight is stored in one of many ways, may be shared, and its uses are
noted while they are made, so that a test knows what can be pruned without asking the code that it tests.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from prox24_export.passes.graph.arrays import Array

OPSETS = (17, 18, 21)
WIDTHS = (8, 8, 8, 4, 12, 16, 6)
LARGEST = 600  # entries of a value without its batch
Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightUse:
    """One node that multiplies by a stored weight.

    Attributes:
        output: The value that the node computes.
        stored: The axis of the stored weight that is reduced, which the groups of four lie along.
        size: The number of entries along that axis.
        groups: The number of groups of a convolution; 1 for all others.
    """

    output: str
    stored: int
    size: int
    groups: int = 1

    @property
    def is_prunable(self) -> bool:
        return self.size % 4 == 0 and self.groups == 1


@dataclass
class RandomGraph:
    """A model that grows node by node.

    Attributes:
        seed: Decides everything.
        nodes: The nodes so far.
        stored: The tensors that are stored, in initializers and Constant nodes, by name.
        initializers: Those of them that are initializers.
        values: The shapes, without the batch, of the values that depend on the input, by name.
        uses: The uses of every stored weight, by its name.
        elsewhere: Names of stored weights that are also read by a node that is not linear.
        operands: For the name of an operand the stored weight behind it, and which axes of that its own axes are.
    """

    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    values: dict[str, Shape] = field(default_factory=dict)
    uses: dict[str, list[WeightUse]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    operands: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draws what holds for the whole model."""
        self.random = np.random.default_rng([self.seed, 24])
        self.opset = self.pick(OPSETS)
        self.half = self.chance(0.15)
        self.dtype: Any = np.float16 if self.half else np.float32
        self.batch: int | str = "N" if self.chance(0.7) else self.pick((1, 2, 3))
        self.count = 0

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def name(self, what: str) -> str:
        self.count += 1
        return f"{what}{self.count}"

    def add(self, op: str, inputs: list[str], shape: Shape | None = None, **attributes: Any) -> str:
        """Adds a node, with a name or without one; `shape` is given where its output is a value to go on with."""
        output = self.name("v")
        name = "" if self.chance(0.3) else f"{op.lower()}_{output}"
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        if shape is not None:
            self.values[output] = shape
        return output

    def store(self, array: Array, what: str = "c") -> str:
        """Stores a tensor as an initializer or in a Constant node."""
        name = self.name(what)
        self.stored[name] = array
        tensor = numpy_helper.from_array(array, name)
        if self.chance(0.75):
            self.initializers.append(tensor)
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], "", value=tensor))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        return self.store((self.random.standard_normal(shape) * scale).astype(self.dtype))

    def operand(self, shape: Shape) -> str:
        """A weight of a shape: one that is there already, or a new one, behind operators that change its layout."""
        fitting = [name for name in self.operands if self.shape_of(name) == shape]
        if fitting and self.chance(0.6):
            return str(self.pick(fitting))
        turned = [name for name in self.operands if len(shape) == 2 and self.shape_of(name) == shape[::-1]]
        if turned and self.chance(0.2):
            before = self.pick(turned)
            perm: dict[str, Any] = {"perm": [1, 0]} if self.chance(0.5) else {}
            operand = self.add("Transpose", [before], **perm)
            self.operands[operand] = (self.operands[before][0], self.operands[before][1][::-1])
            return operand
        axes = tuple(map(int, self.random.permutation(len(shape)))) if self.chance(0.2) else tuple(range(len(shape)))
        kept = tuple(shape[axes.index(axis)] for axis in range(len(shape)))  # axis i of the operand is axes[i] of it
        scale = 1 / math.sqrt(max(1, math.prod(shape) / max(shape)))
        array = (self.random.standard_normal(kept) * scale).astype(self.dtype)
        other = self.pick((np.float16, np.float32, np.float64)) if self.chance(0.15) else self.dtype
        name = operand = self.store(array.astype(other), "w")
        if self.chance(0.15):
            operand = self.add("Identity", [operand])
        if other is not self.dtype:
            operand = self.add("Cast", [operand], to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))
        if axes != tuple(range(len(shape))):
            operand = self.add("Transpose", [operand], perm=axes)
        self.operands[operand] = (name, axes)
        return operand

    def width(self, rows: int) -> int:
        """A number of columns, often that of a weight with this number of rows, so that weights are shared."""
        there = [shape for shape in map(self.shape_of, self.operands) if len(shape) == 2 and shape[0] == rows]
        return int(self.pick(there)[1] if there and self.chance(0.4) else self.pick(WIDTHS))

    def shape_of(self, operand: str) -> Shape:
        name, axes = self.operands[operand]
        return tuple(self.stored[name].shape[axis] for axis in axes)

    def note(self, operand: str, axis: int, output: str, groups: int = 1) -> None:
        """Notes that a node reduces an operand along an axis of it."""
        name, axes = self.operands[operand]
        place = axes[axis]
        use = WeightUse(output, place, self.stored[name].shape[place], groups)
        self.uses.setdefault(name, []).append(use)

    def find_prunable(self, outputs: set[str]) -> set[str]:
        """Finds the stored weights that can be pruned: multiples of four along one axis, for some output."""
        live = set(outputs)
        for node in reversed(self.nodes):
            if live.intersection(node.output):
                live.update(node.input)
        return {
            name
            for name, uses in self.uses.items()
            if name not in self.elsewhere
            and all(use.is_prunable and use.stored == uses[0].stored for use in uses)
            and any(use.output in live for use in uses)
        }

    def build(self) -> onnx.ModelProto:
        """The model with all that was added, and one to three outputs."""
        computed = [name for name in self.values if name != "x"]
        outputs = dict.fromkeys([computed[-1], *(self.pick(computed) for _ in range(int(self.random.integers(0, 3))))])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

        def declare(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, [self.batch, *self.values[name]])

        graph = helper.make_graph(
            self.nodes, f"random{self.seed}", [declare("x")], [*map(declare, outputs)], self.initializers
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return proto


def make_graph(seed: int) -> tuple[RandomGraph, onnx.ModelProto]:
    """Makes the model of a seed, and what is known of how it was made."""
    graph = RandomGraph(seed)
    graph.values["x"] = graph.pick(((8,), (12,), (4, 8), (5, 12), (8, 6, 6), (3, 8, 7), (4, 9), (16, 5)))
    multiplied = 0
    for _ in range(int(graph.random.integers(3, 11))):
        multiplied += grow(graph, graph.pick(MULTIPLY if graph.chance(0.5) else OTHERS))
    while not multiplied or len(graph.values) < 2:
        multiplied += grow(graph, graph.pick(MULTIPLY))
    return graph, graph.build()


def grow(graph: RandomGraph, operator: Any) -> bool:
    """Adds an operator behind one of the latest values where it fits; says whether it multiplies by a weight."""
    name = graph.pick(list(graph.values)[-2:])
    return bool(operator(graph, name, graph.values[name])) and operator in MULTIPLY


def matmul(graph: RandomGraph, x: str, shape: Shape) -> bool:
    if len(shape) > 1 and graph.chance(0.25):  # the weight on the left
        rows = graph.pick(WIDTHS)
        operand = graph.operand((rows, shape[-2]))
        graph.note(operand, 1, graph.add("MatMul", [operand, x], (*shape[:-2], rows, shape[-1])))
        return True
    columns = graph.width(shape[-1])
    operand = graph.operand((shape[-1], columns))
    graph.note(operand, 0, graph.add("MatMul", [x, operand], (*shape[:-1], columns)))
    return True


def gemm(graph: RandomGraph, x: str, shape: Shape) -> bool:
    if len(shape) != 1:
        return False
    (k,) = shape
    n = graph.width(k)
    trans_a, trans_b = graph.chance(0.3), graph.chance(0.5)
    more: dict[str, Any] = {"alpha": 0.5} if graph.chance(0.2) else {}
    more |= {"beta": 2.0} if graph.chance(0.2) else {}
    if graph.chance(0.3):  # the weight on the left: W [n, k] times x [k, batch]
        operand = graph.operand((k, n) if trans_a else (n, k))
        right = x if trans_b else graph.add("Transpose", [x], perm=[1, 0])
        product = graph.add("Gemm", [operand, right], transA=int(trans_a), transB=int(trans_b), **more)
        graph.note(operand, 0 if trans_a else 1, product)
        graph.add("Transpose", [product], (n,), perm=[1, 0])
        return True
    left = graph.add("Transpose", [x], perm=[1, 0]) if trans_a else x
    operand = graph.operand((n, k) if trans_b else (k, n))
    bias = [graph.floats(*graph.pick(((n,), (1, n), ())))] if graph.chance(0.6) else []
    flags = {"transA": int(trans_a), "transB": int(trans_b)}
    graph.note(operand, 1 if trans_b else 0, graph.add("Gemm", [left, operand, *bias], (n,), **flags, **more))
    return True


def conv(graph: RandomGraph, x: str, shape: Shape) -> bool:
    channels, *sizes = shape
    if not sizes:
        return False
    n = graph.pick(WIDTHS)
    groups = graph.pick([g for g in (1, 2, channels) if channels % g == 0 and n % g == 0]) if graph.chance(0.2) else 1
    kernel = [int(min(graph.pick((1, 2, 3)), size)) for size in sizes]
    strides = [graph.pick((1, 1, 2)) for _ in sizes]
    window: dict[str, Any] = {"kernel_shape": kernel} if graph.chance(0.7) else {}
    window |= {"strides": strides}
    padding = graph.pick(("none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"))
    if padding.startswith("SAME"):
        after = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    else:
        pads = [int(graph.random.integers(0, 2)) for _ in range(2 * len(sizes))] if padding == "pads" else []
        padded = [size + sum(pads[axis :: len(sizes)]) for axis, size in enumerate(sizes)]
        dilations = [graph.pick((1, 2)) if (k - 1) * 2 < size else 1 for k, size in zip(kernel, padded, strict=True)]
        window |= {"dilations": dilations}
        spans = [(k - 1) * step + 1 for k, step in zip(kernel, dilations, strict=True)]
        after = [(size - span) // stride + 1 for size, span, stride in zip(padded, spans, strides, strict=True)]
        window |= {"pads": pads} if pads else {}
    window |= {"auto_pad": padding} if padding.isupper() else {}
    operand = graph.operand((n, channels // groups, *kernel))
    bias = [graph.floats(n)] if graph.chance(0.5) else []
    window |= {"group": groups} if groups > 1 or graph.chance(0.5) else {}
    graph.note(operand, 1, graph.add("Conv", [x, operand, *bias], (n, *after), **window), groups)
    return True


def activate(graph: RandomGraph, x: str, shape: Shape) -> bool:
    op = graph.pick(("Relu", "Softmax", "Identity", "Tanh"))
    more = {"axis": graph.pick([-1, 1, len(shape)])} if op == "Softmax" else {}
    graph.add(op, [x], shape, **more)
    return True


def combine(graph: RandomGraph, x: str, shape: Shape) -> bool:
    """Add or Mul, with another value, with itself or with a constant."""
    others = [name for name, other in graph.values.items() if other == shape]
    constant = graph.chance(0.5)
    other = graph.floats(*(shape[-1:] if graph.chance(0.7) else (1,) * len(shape))) if constant else graph.pick(others)
    graph.add(graph.pick(("Add", "Mul")), [x, other] if graph.chance(0.5) else [other, x], shape)
    return True


def read_elsewhere(graph: RandomGraph, x: str, shape: Shape) -> bool:
    """Adds the sums of a weight's columns, so that a node that is not linear reads the weight."""
    weights = [
        name for name in graph.operands if len(graph.shape_of(name)) == 2 and graph.shape_of(name)[1] == shape[-1]
    ]
    if not weights:
        return False
    operand = graph.pick(weights)
    graph.elsewhere.add(graph.operands[operand][0])
    axes = graph.store(np.array([0], np.int64), "axes")
    graph.add("Add", [x, graph.add("ReduceSum", [operand, axes], keepdims=0)], shape)
    return True


def normalise(graph: RandomGraph, x: str, shape: Shape) -> bool:
    inputs = [x, graph.floats(shape[-1])] + ([graph.floats(shape[-1])] if graph.chance(0.7) else [])
    graph.add("LayerNormalization", inputs, shape, axis=-1)
    return True


def transpose(graph: RandomGraph, x: str, shape: Shape) -> bool:
    order = [int(axis) for axis in graph.random.permutation(len(shape))]
    graph.add("Transpose", [x], tuple(shape[axis] for axis in order), perm=[0, *(axis + 1 for axis in order)])
    return True


def reshape(graph: RandomGraph, x: str, shape: Shape) -> bool:
    total = math.prod(shape)
    splits = [(total,), *((total // size, size) for size in (4, 8) if total % size == 0 and total > size)]
    after = graph.pick(splits)
    is_free = isinstance(graph.batch, str)
    target = [0, *after[:-1], -1] if is_free or graph.chance(0.5) else [graph.batch, *after]
    graph.add("Reshape", [x, graph.store(np.array(target, np.int64), "shape")], after)
    return True


def concat(graph: RandomGraph, x: str, shape: Shape) -> bool:
    axis = int(graph.random.integers(len(shape)))

    def fits(other: Shape) -> bool:
        return len(other) == len(shape) and (*other[:axis], *other[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])

    others = [name for name, other in graph.values.items() if fits(other)]
    other = graph.pick(others)
    size = shape[axis] + graph.values[other][axis]
    after = (*shape[:axis], size, *shape[axis + 1 :])
    if math.prod(after) > LARGEST:
        return False
    graph.add("Concat", [x, other], after, axis=axis + 1)
    return True


def split(graph: RandomGraph, x: str, shape: Shape) -> bool:
    axis = int(graph.random.integers(len(shape)))
    if shape[axis] < 2:
        return False
    first = int(graph.random.integers(1, shape[axis]))
    sizes = (first, shape[axis] - first)
    outputs = [graph.name("v"), graph.name("v")]
    parts = graph.store(np.array(sizes, np.int64), "sizes")
    graph.nodes.append(helper.make_node("Split", [x, parts], outputs, "", axis=axis + 1))
    for output, size in zip(outputs, sizes, strict=True):
        graph.values[output] = (*shape[:axis], size, *shape[axis + 1 :])
    return True


MULTIPLY = (matmul, gemm, conv)
OTHERS = (activate, activate, combine, combine, normalise, transpose, reshape, concat, split, read_elsewhere)
