"""A traced torch graph whose chosen linear layers multiply by a weight [N, K] of their own, dense or 2:4.

Both front ends' functions are covered: ONNX's MatMul and Gemm, and what `torch.export` calls `linear`, `addmm`, `mm`
and `matmul`. Nothing here needs a GPU: what the weights become is up to the caller.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from jaxtyping import Float
from torch import Tensor, fx, nn

from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.onnx_to_fx.operators.layers import gemm

aten = torch.ops.aten
Convert = Callable[[Tensor], Any]
LINEAR, ADDMM = {aten.linear.default}, {aten.addmm.default}
PRODUCTS = {torch.matmul, aten.mm.default, aten.matmul.default}


@dataclass(frozen=True)
class Call:
    """How a node multiplies: `y = α·op(x Wᵀ) + β·bias`, as arguments of `product`.

    Attributes:
        x: The activation.
        bias: What is added; None where nothing is.
        alpha: Factor of the product.
        beta: Factor of the bias.
        is_left: The weight is the left operand: the product is transposed.
    """

    x: fx.Node
    bias: Any = None
    alpha: float = 1.0
    beta: float = 1.0
    is_left: bool = False


@dataclass(frozen=True)
class Rewritten:
    """A module of its own.

    Attributes:
        module: `forward(*inputs) -> tuple of tensors`.
        replaced: Names of the layers that multiply by a converted weight, with the number of nodes of each.
        reasons: Why a layer that was wanted does not, by name.
    """

    module: fx.GraphModule
    replaced: Mapping[str, int]
    reasons: Mapping[str, str]


def product(
    x: Tensor,
    weight: Any,
    bias: Tensor | None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    k_axis: int = -1,
    is_left: bool = False,
) -> Tensor:
    """`α·X Wᵀ + β·bias` for `weight` [N, K], with one product of matrices, which is all that sparse kernels take.

    Args:
        x: The activation, K along `k_axis`.
        weight: Dense or sparse, [N, K].
        bias: Added to the result; in the product itself where it is a vector [N].
        alpha: Factor of the product.
        beta: Factor of the bias.
        k_axis: -1 or -2.
        is_left: Whether `W Xᵀ` is meant: rows and columns of the result change places.
    """
    x = x.transpose(-1, -2) if k_axis == -2 and x.dim() > 1 else x  # noqa: PLR2004 (an axis)
    rows = x.reshape(-1, x.shape[-1])
    n = weight.shape[0]
    fused = bias is not None and bias.shape == (n,) and alpha == beta == 1 and not is_left
    result = F.linear(rows, weight, bias if fused else None).reshape(*x.shape[:-1], n)
    result = result.transpose(-1, -2) if is_left and result.dim() > 1 else result
    result = result if alpha == 1 else alpha * result
    return result if bias is None or fused else result + (bias if beta == 1 else beta * bias)


def rewrite(
    graph: TracedGraph,
    source: Differentiable,
    layers: Mapping[Linear, Float[Tensor, "N K"]],
    convert: Convert,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Rewritten:
    """A copy of a differentiable graph in which each layer multiplies by `convert(weight)`.

    Stored tensors are copied to `device`, parameters in `dtype`; the source is not touched.

    Args:
        graph: What `source` was made of.
        source: The graph as a function.
        layers: Weight of each layer to replace.
        convert: Makes the weight [N, K], of `dtype` on `device`, what `torch.nn.functional.linear` is to read.
        device: Where the copy runs.
        dtype: Of its parameters.
    """
    copy = fx.Graph(tracer_cls=source.module.graph._tracer_cls)  # noqa: SLF001 (fx's own way to keep the leaf functions)
    nodes: dict[fx.Node, fx.Node] = {}
    copy.output(copy.graph_copy(source.module.graph, nodes))
    places = {node.name: nodes[node] for node in nodes}
    by_onnx = {node.meta["onnx"][0]: node for node in copy.nodes if "onnx" in node.meta}
    by_label = {node.name: places.get(node.outputs[0]) for node in graph.nodes}
    added: dict[str, Any] = {}
    replaced: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for layer, weight in layers.items():
        found = {use: by_onnx.get(use.node) or by_label.get(use.node) for use in layer.uses}
        calls = {use: call(node) if node is not None else None for use, node in found.items()}
        if any(told is None for told in calls.values()):
            reasons[layer.name] = "its node is no product that torch.sparse can compute"
            continue
        name = f"two_four_{len(added)}"
        added[name] = convert(weight.to(device, dtype).contiguous())
        for use, told in calls.items():
            node = found[use]
            if node is not None and told is not None and isinstance(use.view, Rows):
                _replace(copy, node, told, name, use.view.k_axis)
        replaced[layer.name] = len(layer.uses)
    copy.eliminate_dead_code()
    root = _root(source, copy, added, device, dtype)
    _on_device(copy, device)
    copy.lint()
    return Rewritten(fx.GraphModule(root, copy, "TwoFour"), replaced, reasons)


def call(node: fx.Node) -> Call | None:
    """How a node multiplies by a stored weight; None where it is no product that is known here."""
    args, kwargs = node.args, node.kwargs
    if node.target in LINEAR:
        return _call(args[0], bias=args[2] if len(args) > 2 else kwargs.get("bias"))  # noqa: PLR2004
    if node.target in ADDMM:
        factors = {name: float(kwargs.get(name, 1.0)) for name in ("alpha", "beta")}  # type: ignore[arg-type]
        return _call(args[1], bias=args[0], **factors)
    if node.target in PRODUCTS:
        is_left = _is_stored(args[0])
        return _call(args[1] if is_left else args[0], is_left=is_left)
    if node.target is gemm:
        is_left = _is_stored(args[0])
        factors = {name: float(kwargs.get(name, 1.0)) for name in ("alpha", "beta")}  # type: ignore[arg-type]
        bias = args[2] if len(args) > 2 else None  # noqa: PLR2004
        return _call(args[1] if is_left else args[0], bias=bias, is_left=is_left, **factors)
    return None


def _call(x: Any, **facts: Any) -> Call | None:
    return Call(x, **facts) if isinstance(x, fx.Node) else None


def _is_stored(operand: Any) -> bool:
    """Whether an operand depends on no input."""
    pending = [operand] if isinstance(operand, fx.Node) else []
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return False
        seen.add(node)
        pending += [before for before in node.all_input_nodes if before not in seen]
    return True


def _replace(graph: fx.Graph, node: fx.Node, told: Call, weight: str, k_axis: int) -> None:
    with graph.inserting_before(node):
        operand = graph.get_attr(weight)
        options: dict[str, Any] = {"alpha": told.alpha, "beta": told.beta, "k_axis": k_axis, "is_left": told.is_left}
        new = graph.call_function(product, (told.x, operand, told.bias), options)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _root(
    source: Differentiable, graph: fx.Graph, added: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """What the nodes read, copied to `device`; tensors that a layer no longer reads are left out."""
    root, parameters = nn.Module(), set(source.parameters.values())
    for name in {str(node.target): None for node in graph.nodes if node.op == "get_attr"}:
        value = added[name] if name in added else getattr(source.module, name)
        if name in added:
            root.register_buffer(name, value, persistent=False)
        elif isinstance(value, Tensor):
            kind = dtype if name in parameters and value.is_floating_point() else value.dtype
            root.register_buffer(name, value.detach().to(device, kind), persistent=False)
        else:
            setattr(root, name, value)
    return root


def _on_device(graph: fx.Graph, device: torch.device) -> None:
    """Nodes that make tensors make them on `device`."""
    for node in graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": device}
