"""Which nodes of a `torch.export` graph are linear layers, with which weight, or why not."""

import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from prox24_export.passes.activations import Patches, Rows, View
from prox24_export.passes.graph import Candidate, Reason, Skipped, Use
from prox24_export.passes.layout import Layout

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
    """A parameter as an operand sees it.

    Attributes:
        placeholder: Name of the placeholder that stands for it.
        layout: From its stored shape to the operand.
        path: Every node on the way, the last one is the operand.
    """

    placeholder: str
    layout: Layout
    path: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Operators:
    """Recognises linear nodes.

    Attributes:
        graph: In topological order; parameters are placeholders.
        tensors: Parameter, buffer or constant by name of its placeholder.
        names: Name of the stored weight by name of its placeholder; tied weights share one.
        own_names: The same, but of tied weights each has its own.
        overlapping: Stored weights that share memory with others of another shape or order.
    """

    graph: fx.Graph
    tensors: Mapping[str, torch.Tensor]
    names: Mapping[str, str]
    own_names: Mapping[str, str]
    overlapping: AbstractSet[str] = frozenset()

    def find(self) -> dict[fx.Node, Candidate | Skipped]:
        """Every linear-like node with what it is, in topological order."""
        found: dict[fx.Node, tuple[Weight, str, View, int] | Reason] = {}
        for node in self.graph.nodes:
            result = self._recognised(node) if node.op == "call_function" else None
            if result is not None:
                found[node] = result
        paths = {step for result in found.values() if isinstance(result, tuple) for step in result[0].path}
        labels = self._labels(found)
        return {node: self._told(node, labels[node], result, found, paths) for node, result in found.items()}

    def _recognised(self, node: fx.Node) -> tuple[Weight, str, View, int] | Reason | None:  # noqa: PLR0911 - one a kind of node
        """Weight, operand, view and group size of a linear node; why not; None for nodes that are not linear."""
        name = str(getattr(node.target, "__name__", node.target)).split(".", maxsplit=1)[0]
        if name in CONVOLUTIONS or name == "convolution":
            return self._convolution(node)
        if name == "linear":
            return self._product(node, 0, 1, transposed=False)
        if name == "addmm":
            return self._product(node, 1, 2, transposed=True)
        if name in {"mm", "matmul"}:
            left, right = (self.weight(operand) for operand in node.args[:2])
            if right is None and left is not None and len(left.layout.shape) == 2:  # noqa: PLR2004 - a matrix
                return left, _name(node.args[1]), Rows(-2), left.layout.shape[1]
            return self._product(node, 0, 1, transposed=True)
        batched = name in {"bmm", "baddbmm"} or "grouped_mm" in name
        if (batched or name == "einsum") and any(self.weight(arg) for arg in _operands(node)):
            return Reason.BATCHED_WEIGHT if batched else Reason.EINSUM
        if name in TRANSPOSED:
            return Reason.TRANSPOSED_CONV
        return Reason.RECURRENT if name in RECURRENT else None

    def _product(
        self, node: fx.Node, activation: int, weight: int, *, transposed: bool
    ) -> tuple[Weight, str, View, int] | Reason:
        found = self.weight(node.args[weight])
        if found is None:
            return Reason.NOT_CONSTANT
        rank = len(found.layout.shape)
        if rank != 2:  # noqa: PLR2004 - a matrix
            return Reason.VECTOR_WEIGHT if rank == 1 else Reason.BATCHED_WEIGHT
        layout = found.layout.permute((1, 0)) if transposed else found.layout
        found = Weight(found.placeholder, layout, found.path)
        return found, _name(node.args[activation]), Rows(), layout.shape[1]

    def _convolution(self, node: fx.Node) -> tuple[Weight, str, View, int] | Reason:
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
            return Reason.NOT_CONSTANT
        _, channels, *kernel = found.layout.shape
        spatial = len(kernel)
        if len(_shape(given["input"])) != spatial + 2:
            return Reason.NO_BATCH_AXIS
        padding = given.get("padding", 0)
        pads = (0,) * spatial if isinstance(padding, str) else _each(padding, spatial)
        view = Patches(
            tuple(kernel),
            _each(given.get("stride", 1), spatial),
            _each(given.get("dilation", 1), spatial),
            pads * 2,
            {"same": "SAME_UPPER", "valid": "VALID"}.get(str(padding), "NOTSET"),
        )
        layout = found.layout.permute((0, *range(2, 2 + spatial), 1)).reshape((found.layout.shape[0], -1))
        return Weight(found.placeholder, layout, found.path), _name(given["input"]), view, channels

    def weight(self, node: Any) -> Weight | None:
        """The parameter behind an operand, through what only reorders its entries or changes their type."""
        if not isinstance(node, fx.Node):
            return None
        if node.op == "placeholder":
            known = self.tensors.get(node.name) if node.name in self.names else None
            return None if known is None else Weight(node.name, Layout(tuple(known.shape)), (node,))
        if node.op != "call_function" or not node.args:
            return None
        inner = self.weight(node.args[0])
        layout = None if inner is None else _moved(node, inner.layout)
        return None if inner is None or layout is None else Weight(inner.placeholder, layout, (*inner.path, node))

    def _labels(self, found: Mapping[fx.Node, Any]) -> dict[fx.Node, str]:
        """Names that a user knows: the module's path where a node belongs to one weight, the node's own elsewhere."""
        labels: dict[fx.Node, str] = {}
        taken = {node.name for node in self.graph.nodes if node not in found}
        for node, result in found.items():
            label = node.name
            if isinstance(result, tuple):
                label = self.own_names[result[0].placeholder].removesuffix(".weight")
            count = 2
            unique = label
            while unique in taken:
                unique, count = f"{label}#{count}", count + 1
            taken.add(unique)
            labels[node] = unique
        return labels

    def _told(
        self, node: fx.Node, label: str, result: Any, found: Mapping[fx.Node, Any], paths: set[fx.Node]
    ) -> Candidate | Skipped:
        op = str(getattr(node.target, "__name__", node.target)).split(".", maxsplit=1)[0]
        if isinstance(result, Reason):
            operand = next((seen for arg in _operands(node) if (seen := self.weight(arg)) is not None), None)
            size = math.prod(operand.layout.shape) if operand else 0
            name = self.names[operand.placeholder] if operand else None
            return Skipped(label, op, name, None, None, size, result)
        weight, activation, view, group = result
        stored, name = self.tensors[weight.placeholder], self.names[weight.placeholder]
        n, k = weight.layout.shape
        if stored.dtype not in FLOAT_TYPES:
            return Skipped(label, op, name, k, n, n * k, Reason.WEIGHT_TYPE, str(stored.dtype).removeprefix("torch."))
        refusal = self._read_elsewhere(name, found, paths)
        if refusal is not None:
            return Skipped(label, op, name, k, n, n * k, *refusal)
        if name in self.overlapping:
            return Skipped(label, op, name, k, n, n * k, Reason.READ_ELSEWHERE, "shares memory with another weight")
        plain = isinstance(view, Rows) and view.k_axis == -1 and not node.kwargs
        use = Use(label, activation, view, self._residual(node, n) if plain else None)
        return Candidate(use, op, name, FLOAT_TYPES[stored.dtype], weight.layout, group)

    def _residual(self, node: fx.Node, width: int) -> str | None:
        """The activation that is added to a node's result, past constant biases and nodes that keep its entries."""
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
        self, name: str, found: Mapping[fx.Node, Any], paths: set[fx.Node]
    ) -> tuple[Reason, str] | None:
        """Why a weight cannot change although a linear node reads it, or None."""
        roots = [node for node in self.graph.nodes if node.op == "placeholder" and self.names.get(node.name) == name]
        pending = list(roots)
        while pending:
            value = pending.pop()
            for user in value.users:
                if user in paths:
                    pending.append(user)
                elif user.op == "output":
                    return Reason.IS_GRAPH_OUTPUT, ""
                elif "embedding" in str(user.target) or "gather" in str(user.target):
                    return Reason.TIED_TO_EMBEDDING, user.name
                elif not (isinstance(found.get(user), tuple) and found[user][0].path[-1] is value):
                    return Reason.READ_ELSEWHERE, user.name
        return None


def _moved(node: fx.Node, layout: Layout) -> Layout | None:
    """`layout` after a node that only reorders entries; None where it does more."""
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
    if target in {aten.view.default, aten.reshape.default, aten.squeeze.dim, aten.unsqueeze.default}:
        shape = _shape(node)
        return layout.reshape(shape) if all(isinstance(size, int) for size in shape) else None
    return None


def keeps_entries(node: fx.Node) -> bool:
    """Whether a node's result has the entries of its first operand, in their order."""
    return (
        node.target in SAME_VALUE
        or node.target in {aten.view.default, aten.reshape.default}
        or str(node.target).startswith(("aten.to.", "aten._to_copy"))
    )


def _operands(node: fx.Node) -> Iterator[Any]:
    for arg in node.args:
        yield from arg if isinstance(arg, (list, tuple)) else (arg,)


def _name(node: Any) -> str:
    return str(node.name)


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _each(value: Any, count: int) -> tuple[int, ...]:
    values = tuple(int(entry) for entry in value) if isinstance(value, (list, tuple)) else (int(value),)
    return values * count if len(values) == 1 else values
