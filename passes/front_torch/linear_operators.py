"""Recognises linear nodes of a `torch.export` graph: their weight, layout and activation, or why they stay dense."""

import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from prox24_export.passes.front_torch.computed_weights import explain_operand, skip_computed
from prox24_export.passes.graph.activations import Patches, Rows, View
from prox24_export.passes.graph.experts import Expert, name_part
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Candidate, Reason, Skipped, Use

aten = torch.ops.aten
FLOAT_TYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}
SAME_VALUE = {
    aten.clone.default,
    aten.detach.default,
    aten.detach_.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


@dataclass(frozen=True)
class Weight:
    """A parameter behind an operand.

    Attributes:
        placeholder: Name of the placeholder of the parameter.
        layout: The way from its stored shape to the shape of the operand.
        path: Every node on that way; the last one is the operand.
        part: Index along the first stored axis where the operand is only one entry of it, else None.
    """

    placeholder: str
    layout: Layout
    path: tuple[fx.Node, ...]
    part: int | None = None


@dataclass(frozen=True)
class Product:
    """A multiplication by a parameter.

    Attributes:
        weight: The parameter as `W` [N, K].
        activation: Name of the other operand.
        view: How the activation becomes a matrix [tokens, K].
        group_size: Number of entries that are contiguous along K.
        expert: The expert, which multiplies only some rows of the activation. None where all rows are multiplied.
    """

    weight: Weight
    activation: str
    view: View
    group_size: int
    expert: Expert | None = None


Recognised = list[Product] | Reason


@dataclass(frozen=True)
class Operators:
    """Recognises the linear nodes of a graph.

    Attributes:
        graph: The graph, in topological order. Parameters are placeholders.
        tensors: Parameter, buffer or constant by name of its placeholder.
        names: Name of the stored weight by name of its placeholder; tied weights share one name.
        own_names: Name of the weight by name of its placeholder; tied weights each have their own name.
        overlapping: Names of stored weights that share memory with others of another shape or order.
    """

    graph: fx.Graph
    tensors: Mapping[str, torch.Tensor]
    names: Mapping[str, str]
    own_names: Mapping[str, str]
    overlapping: AbstractSet[str] = frozenset()

    def find(self) -> dict[fx.Node, list[Candidate | Skipped]]:
        """Finds every linear-like node with its layers, in topological order. A node has one layer for each expert."""
        found: dict[fx.Node, Recognised] = {}
        for node in self.graph.nodes:
            result = self._recognised(node) if node.op == "call_function" else None
            if result is not None:
                found[node] = result
        paths = {
            step
            for result in found.values()
            if isinstance(result, list)
            for seen in result
            for step in seen.weight.path
        }
        labels = self._labels(found)
        told: dict[fx.Node, list[Candidate | Skipped]] = {}
        for node, result in found.items():
            if isinstance(result, Reason):
                told[node] = [self._skipped(node, labels[node], result)]
                continue
            refusal = self._read_elsewhere(self.names[result[0].weight.placeholder], found, paths)
            told[node] = [self._told(node, labels[node], product, refusal) for product in result]
        return told

    def _recognised(self, node: fx.Node) -> Recognised | None:  # noqa: PLR0911 - one a kind of node
        """The products of a linear node, or the reason why it stays dense; None for a node that is not linear."""
        name = _name_operator(node)
        if name in CONVOLUTIONS or name == "convolution":
            return self._convolution(node)
        if name == "linear":
            return self._product(node, 0, 1, transposed=False)
        if name == "addmm":
            return self._product(node, 1, 2, transposed=True)
        if name in {"mm", "matmul"}:
            left, right = (self.weight(operand) for operand in node.args[:2])
            if right is None and left is not None and len(left.layout.shape) == 2:  # noqa: PLR2004 - a matrix
                return [Product(left, _name(node.args[1]), Rows(-2), left.layout.shape[1])]
            return self._product(node, 0, 1, transposed=True)
        if name in {"bmm", "baddbmm"} or "grouped_mm" in name:
            return self._experts(node, name)
        if name == "einsum" and any(self.weight(arg) for arg in _walk_operands(node)):
            return Reason.EINSUM
        if name in TRANSPOSED:
            return Reason.TRANSPOSED_CONV
        return Reason.RECURRENT if name in RECURRENT else None

    def _product(self, node: fx.Node, activation: int, weight: int, *, transposed: bool) -> Recognised:
        found = self.weight(node.args[weight])
        if found is None:
            return explain_operand(node, _name_operator(node), self.tensors)
        rank = len(found.layout.shape)
        if rank != 2:  # noqa: PLR2004 - a matrix
            return Reason.VECTOR_WEIGHT if rank == 1 else Reason.BATCHED_WEIGHT
        layout = found.layout.permute((1, 0)) if transposed else found.layout
        return [Product(replace(found, layout=layout), _name(node.args[activation]), Rows(), layout.shape[1])]

    def _experts(self, node: fx.Node, name: str) -> Recognised | None:
        """The products of a node with experts, one for each; None where both operands are computed."""
        first = 1 if name == "baddbmm" else 0
        left, right = (self.weight(operand) for operand in node.args[first : first + 2])
        found = left if right is None else right
        if found is None:
            return None
        layout = found.layout.of_part() if found.part is None else None
        if layout is None or len(layout.shape) != 2:  # noqa: PLR2004 - a matrix
            return Reason.BATCHED_WEIGHT
        layout = layout if right is None else layout.permute((1, 0))
        activation = node.args[first + (right is None)]
        offsets, tokens = self._routing(node) if "grouped_mm" in name else (None, None)
        return [
            Product(
                Weight(found.placeholder, layout, found.path, index),
                _name(activation),
                Rows(-2 if right is None else -1),
                layout.shape[1],
                Expert(index, offsets, tokens),
            )
            for index in range(found.layout.shape[0])
        ]

    def _routing(self, node: fx.Node) -> tuple[str | None, str | None]:
        """Names of the offsets of a grouped product and of the tokens of its rows; None where they are not known.

        Rows are gathered by token before the first product of an expert. Later products keep their order and offsets.
        """
        offsets = node.args[2] if len(node.args) > 2 else node.kwargs["offs"]  # noqa: PLR2004
        if not isinstance(offsets, fx.Node):
            return None, None
        for other in offsets.users:
            gathered = other.args[0] if other.args else None
            if "grouped_mm" not in _name_operator(other) or not isinstance(gathered, fx.Node):
                continue
            if gathered.target is aten.index.Tensor and len(indices := gathered.args[1]) == 1:  # type: ignore[arg-type]
                return offsets.name, _name(indices[0])  # type: ignore[index]
        return offsets.name, None

    def _convolution(self, node: fx.Node) -> Recognised:
        names = ("input", "weight", "bias", "stride", "padding", "dilation")
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        if str(node.target).startswith("aten.convolution"):
            if node.args[6]:
                return Reason.TRANSPOSED_CONV
            groups = node.args[8]
        else:
            groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)  # noqa: PLR2004
        found = self.weight(given["weight"])
        if groups != 1:
            return Reason.GROUPED_CONV
        if found is None:
            return explain_operand(node, _name_operator(node), self.tensors)
        _, channels, *kernel = found.layout.shape
        spatial = len(kernel)
        if len(_shape(given["input"])) != spatial + 2:
            return Reason.NO_BATCH_AXIS
        padding = given.get("padding", 0)
        pads = (0,) * spatial if isinstance(padding, str) else _repeat(padding, spatial)
        view = Patches(
            tuple(kernel),
            _repeat(given.get("stride", 1), spatial),
            _repeat(given.get("dilation", 1), spatial),
            pads * 2,
            {"same": "SAME_UPPER", "valid": "VALID"}.get(str(padding), "NOTSET"),
        )
        layout = found.layout.permute((0, *range(2, 2 + spatial), 1)).reshape((found.layout.shape[0], -1))
        return [Product(replace(found, layout=layout), _name(given["input"]), view, channels)]

    def weight(self, node: Any) -> Weight | None:
        """Finds the parameter behind an operand, through nodes that only reorder its entries or change their type."""
        if not isinstance(node, fx.Node):
            return None
        if node.op == "placeholder":
            known = self.tensors.get(node.name) if node.name in self.names else None
            return None if known is None else Weight(node.name, Layout(tuple(known.shape)), (node,))
        if node.op != "call_function" or not node.args:
            return None
        inner = self.weight(node.args[0])
        if inner is None:
            return None
        if node.target is aten.select.int:
            return _select(node, inner)
        layout = _follow(node, inner.layout)
        return None if layout is None else replace(inner, layout=layout, path=(*inner.path, node))

    def _labels(self, found: Mapping[fx.Node, Recognised]) -> dict[fx.Node, str]:
        """Names that a user knows: the path of the module whose weight a node uses, or else the name of the node."""
        labels: dict[fx.Node, str] = {}
        taken = {node.name for node in self.graph.nodes if node not in found}
        for node, result in found.items():
            label = node.name
            if isinstance(result, list):
                label = self.own_names[result[0].weight.placeholder].removesuffix(".weight")
            count = 2
            unique = label
            while unique in taken:
                unique, count = f"{label}#{count}", count + 1
            taken.add(unique)
            labels[node] = unique
        return labels

    def _skipped(self, node: fx.Node, label: str, reason: Reason) -> Skipped:
        if reason is Reason.COMPUTED_IN_PROGRAM:
            return skip_computed(node, _name_operator(node), label, self.tensors)
        operand = next((seen for arg in _walk_operands(node) if (seen := self.weight(arg)) is not None), None)
        size = math.prod(operand.layout.shape) if operand else 0
        name = self.names[operand.placeholder] if operand else None
        k, n = _find_dimensions(node, operand.layout.shape, reason) if operand else (None, None)
        return Skipped(label, _name_operator(node), name, k, n, size, reason)

    def _told(
        self, node: fx.Node, label: str, product: Product, refusal: tuple[Reason, str] | None
    ) -> Candidate | Skipped:
        op, weight = _name_operator(node), product.weight
        stored, name = self.tensors[weight.placeholder], self.names[weight.placeholder]
        n, k = weight.layout.shape
        if stored.dtype not in FLOAT_TYPES:
            refusal = Reason.WEIGHT_TYPE, str(stored.dtype).removeprefix("torch.")
        elif refusal is None and name in self.overlapping:
            refusal = Reason.READ_ELSEWHERE, "shares memory with another weight"
        part = name_part(name, weight.part)
        expert = product.expert
        if refusal is not None:
            return Skipped(name_part(label, expert.index if expert else None), op, part, k, n, n * k, *refusal)
        plain = isinstance(product.view, Rows) and product.view.k_axis == -1 and not node.kwargs and expert is None
        residual = self._residual(node, n) if plain else None
        use = Use(label, product.activation, product.view, residual, expert)
        return Candidate(use, op, part, FLOAT_TYPES[stored.dtype], weight.layout, product.group_size)

    def _residual(self, node: fx.Node, width: int) -> str | None:
        """Name of the activation that is added to a node's result, past constant biases and nodes that keep entries."""
        value = node
        while len(value.users) == 1:
            user = next(iter(value.users))
            if user.target is aten.add.Tensor and not user.kwargs:
                others = [arg for arg in user.args if isinstance(arg, fx.Node) and arg is not value]
                if len(others) == 1 and others[0].name not in self.tensors:
                    return str(others[0].name)
                if not others:
                    return None
            elif not keeps_entries(user):
                return None
            if not _shape(user) or _shape(user)[-1] != width:
                return None
            value = user
        return None

    def _read_elsewhere(
        self, name: str, found: Mapping[fx.Node, Recognised], paths: set[fx.Node]
    ) -> tuple[Reason, str] | None:
        """Why a weight cannot change although a linear node reads it; None where it can."""
        roots = [node for node in self.graph.nodes if node.op == "placeholder" and self.names.get(node.name) == name]
        pending = list(roots)
        while pending:
            value = pending.pop()
            for user in value.users:
                if user in paths:
                    pending.append(user)
                elif str(user.target).startswith("aten._assert"):
                    continue  # a type or shape that tracing took for granted
                elif user.op == "output":
                    return Reason.IS_GRAPH_OUTPUT, ""
                elif "embedding" in str(user.target) or "gather" in str(user.target):
                    return Reason.TIED_TO_EMBEDDING, user.name
                elif not any(product.weight.path[-1] is value for product in _products(found.get(user))):
                    return Reason.READ_ELSEWHERE, user.name
        return None


def _follow(node: fx.Node, layout: Layout) -> Layout | None:
    """Follows a layout through a node that only reorders entries; None where the node does more."""
    target, args, rank = node.target, node.args, len(layout.shape)
    if target in SAME_VALUE or str(target).startswith(("aten.to.", "aten._to_copy")):
        value = node.meta.get("val")
        return layout if isinstance(value, torch.Tensor) and value.dtype.is_floating_point else None
    if target in {aten.t.default, aten.numpy_T.default}:
        return layout.permute(tuple(reversed(range(rank))))
    if target is aten.transpose.int:
        axes = list(range(rank))
        first, second = int(args[1]) % rank, int(args[2]) % rank  # type: ignore[arg-type] # integers by its schema
        axes[first], axes[second] = axes[second], axes[first]
        return layout.permute(axes)
    if target is aten.permute.default:
        return layout.permute([int(axis) % rank for axis in args[1]])  # type: ignore[union-attr,arg-type]
    if target in {aten.view.default, aten.reshape.default, aten.unsqueeze.default} or _name_operator(node) == "squeeze":
        shape = _shape(node)
        return layout.reshape(shape) if all(isinstance(size, int) for size in shape) else None
    return None


def _select(node: fx.Node, whole: Weight) -> Weight | None:
    """Selects one entry along the first axis of a batched weight; None where the node selects something else."""
    axis, index = (int(argument) for argument in node.args[1:3])  # type: ignore[arg-type] # integers by its schema
    layout = whole.layout.of_part() if whole.part is None else None
    rank = len(whole.layout.shape)
    if layout is None or axis % rank or rank < 3:  # noqa: PLR2004 - a batch of matrices
        return None
    return Weight(whole.placeholder, layout, (*whole.path, node), index % whole.layout.shape[0])


def _products(result: Recognised | None) -> list[Product]:
    return result if isinstance(result, list) else []


def _name_operator(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).split(".", maxsplit=1)[0]


def _find_dimensions(node: fx.Node, shape: tuple[int, ...], reason: Reason) -> tuple[int | None, int | None]:
    """Finds (K, N) of a convolution that stays dense; None for other nodes."""
    if reason in {Reason.GROUPED_CONV, Reason.NO_BATCH_AXIS}:
        return math.prod(shape[1:]), shape[0]
    if reason is Reason.TRANSPOSED_CONV:
        place = 8 if str(node.target).startswith("aten.convolution") else 6
        groups = node.args[place] if len(node.args) > place else node.kwargs.get("groups", 1)
        return shape[0] * math.prod(shape[2:]) // groups, shape[1] * groups  # type: ignore[operator, return-value]
    return None, None


def keeps_entries(node: fx.Node) -> bool:
    """Whether a node's result has the entries of its first operand, in their order."""
    return (
        node.target in SAME_VALUE
        or node.target in {aten.view.default, aten.reshape.default}
        or str(node.target).startswith(("aten.to.", "aten._to_copy"))
    )


def _walk_operands(node: fx.Node) -> Iterator[Any]:
    for arg in node.args:
        yield from arg if isinstance(arg, (list, tuple)) else (arg,)


def _name(node: Any) -> str:
    return str(node.name)


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _repeat(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(int(entry) for entry in value) if isinstance(value, (list, tuple)) else (int(value),)
    return values * count if len(values) == 1 else values
