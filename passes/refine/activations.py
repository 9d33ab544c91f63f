"""Replaces activations that a graph spells out, such as `x · sigmoid(x)`, by one call of torch each.

Exporters write GELU as up to nine nodes. Every one of them is a pass over memory, and two more for the gradient, which
also keeps what most of them return.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor, fx, nn
from torch._ops import OpOverload

LAST = {"mul", "div"}  # functions that may compute an activation's result
BENDS = {"clamp", "clip", "erf", "exp", "hard_sigmoid", "hardsigmoid", "hardtanh", "sigmoid", "softplus", "tanh"}
BY_ENTRY = LAST | BENDS | {"add", "log", "log1p", "neg", "pow", "power", "reciprocal", "relu", "relu6", "square", "sub"}
LONGEST_CHAIN = 16  # values in a row, each a function of the one before it
MOST_NODES = 24  # that an activation is spelled out in
NEAR = torch.linspace(-12, 12, 193, dtype=torch.float64)
FAR = torch.tensor([15, 20, 30, 50, 100, 1e3, 1e6, 1e12, 1e30], dtype=torch.float64)  # a bound anywhere below is seen
PROBES = torch.cat([-FAR.flip(0), NEAR, FAR])  # where functions are compared; 0 is among them
TOLERANCE = 1e-6  # relative to 1 + |y|: files write constants in float32; GELU by tanh and by erf differ by 5e-4


@dataclass(frozen=True)
class FusedActivation:
    """An activation that torch computes in one call.

    Attributes:
        function: The function of torch.
        keywords: Its arguments beside `x`.
    """

    function: Callable[..., Tensor]
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def of(self, x: Tensor) -> Tensor:
        """Computes the activation of `x`, entry by entry."""
        return self.function(x, **self.keywords)


KNOWN = (
    FusedActivation(F.gelu, {"approximate": "none"}),
    FusedActivation(F.gelu, {"approximate": "tanh"}),
    FusedActivation(F.silu),
    FusedActivation(F.mish),
    FusedActivation(F.hardswish),
)


def fuse_activations(module: fx.GraphModule) -> int:
    """Replaces every activation that is spelled out, in place. Results differ by rounding alone.

    An activation is recognised by what it computes, whatever the order of its nodes: a value that depends entry by
    entry on one other value and on scalar constants is computed in float64 at 211 places, most of them from −12 to 12.

    Args:
        module: The module. Scalar constants are Python numbers or buffers without axes.

    Returns:
        The number of activations that are one call now.
    """
    chains: dict[fx.Node, tuple[fx.Node, ...]] = {}
    count = 0
    for node in list(module.graph.nodes):
        chains[node] = (node, *_find_chain(module, node, chains))[:LONGEST_CHAIN]
        if _name(node) not in LAST:
            continue
        for origin in reversed(chains[node][1:]):
            activation = _recognise(module, origin, node)
            if activation is not None:
                call = _replace(module.graph, origin, node, activation)
                chains[call] = (call,)
                count += 1
                break
    if count:
        module.graph.eliminate_dead_code()
        module.recompile()
    return count


def _find_chain(
    module: fx.GraphModule, node: fx.Node, chains: Mapping[fx.Node, Sequence[fx.Node]]
) -> tuple[fx.Node, ...]:
    """Finds the values that a node is a function of, each by itself, the nearest first."""
    read = [source for source in node.all_input_nodes if not _is_scalar(module, source)]
    has_vector = any(isinstance(value, tuple | list) for value in (*node.args, *node.kwargs.values()))
    if _name(node) not in BY_ENTRY or not read or has_vector:
        return ()
    first, *others = (chains[source] for source in read)
    return tuple(value for value in first if all(value in chain for chain in others))


def _name(node: fx.Node) -> str:
    """The name of the function that a node calls; nothing for what is neither of torch nor of the table's."""
    if node.op != "call_function":
        return ""
    target: Any = node.target
    if isinstance(target, OpOverload):
        return str(target.overloadpacket.__name__) if target.namespace == "aten" else ""
    return str(getattr(target, "__name__", ""))


def _is_scalar(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node reads a constant without axes."""
    if node.op != "get_attr":
        return False
    value = _read(module, node)
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and not value.ndim


def _read(module: fx.GraphModule, node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _recognise(module: fx.GraphModule, origin: fx.Node, node: fx.Node) -> FusedActivation | None:
    """Finds the activation that a node computes of an earlier value."""
    example = _read(module, origin) if origin.op == "get_attr" else origin.meta.get("val")
    between = _list_between(module, origin, node)
    if _is_integer(example) or not any(_name(step) in BENDS for step in between):
        return None
    found: dict[fx.Node, Any] = {origin: PROBES}
    for step in between:
        for source in step.all_input_nodes:
            if source not in found:
                constant = _read(module, source)
                if _is_integer(constant):  # both sides of an ONNX operator have one type, so that the value is one, too
                    return None
                found[source] = constant.cpu()
        args, keywords = fx.node.map_arg((step.args, step.kwargs), found.__getitem__)
        found[step] = step.target(*args, **keywords)  # type: ignore[operator] # a function, by its op
    for activation in KNOWN:
        wanted = activation.of(PROBES)
        if bool(((found[node] - wanted).abs() <= TOLERANCE * (1 + wanted.abs())).all()):
            return activation
    return None


def _is_integer(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point()


def _list_between(module: fx.GraphModule, origin: fx.Node, node: fx.Node) -> list[fx.Node]:
    """Lists what leads from a value to a node, in the order of the graph; nothing where that are too many nodes."""
    found, pending = {node}, [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source is not origin and source not in found and not _is_scalar(module, source):
                found.add(source)
                pending.append(source)
                if len(found) > MOST_NODES:
                    return []
    return sorted(found)


def _replace(graph: fx.Graph, origin: fx.Node, node: fx.Node, activation: FusedActivation) -> fx.Node:
    with graph.inserting_before(node):
        call = graph.call_function(activation.function, (origin,), dict(activation.keywords))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    return call
