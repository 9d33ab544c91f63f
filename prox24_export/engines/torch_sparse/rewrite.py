"""A traced torch graph whose chosen linear layers multiply by a weight [N, K] of their own, dense or 2:4.

The functions of both front ends are covered: ONNX's MatMul and Gemm, and what `torch.export` calls `linear`, `addmm`,
`mm` and `matmul`. Nothing here needs a GPU: what the weights are converted to is up to the caller.
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
    """How a node multiplies: `y = α·op(x Wᵀ) + β·bias`, as arguments of `multiply`.

    Attributes:
        x: The activation.
        bias: What is added to the product; None where nothing is.
        alpha: The factor of the product.
        beta: The factor of the bias.
        is_left: Whether the weight is the left operand, so that the product is transposed.
    """

    x: fx.Node
    bias: Any = None
    alpha: float = 1.0
    beta: float = 1.0
    is_left: bool = False


@dataclass(frozen=True)
class Rewritten:
    """A rewritten module, which shares nothing with the graph that it was made of.

    Attributes:
        module: The module; its `forward` takes the inputs and returns a tuple of tensors.
        replaced: The number of nodes of each layer that multiplies by a converted weight, by the layer's name.
        reasons: Why a layer that was to be replaced was not, by the layer's name.
    """

    module: fx.GraphModule
    replaced: Mapping[str, int]
    reasons: Mapping[str, str]


def multiply(
    x: Tensor,
    weight: Any,
    bias: Tensor | None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    k_axis: int = -1,
    is_left: bool = False,
) -> Tensor:
    """Computes `α·X Wᵀ + β·bias` with one product of matrices, which is all that sparse kernels take.

    Args:
        x: The activation, with K along `k_axis`.
        weight: The weight [N, K], dense or sparse.
        bias: What is added to the result; a vector [N] is added by the product itself.
        alpha: The factor of the product.
        beta: The factor of the bias.
        k_axis: The axis of `x` that is K, -1 or -2.
        is_left: Whether `W Xᵀ` is wanted, so that rows and columns of the result change places.
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
    """Copies a differentiable graph so that each layer of the copy multiplies by `convert(weight)`.

    Stored tensors are copied to `device`, and parameters to `dtype`, too; the source is not touched.

    Args:
        graph: The graph that `source` was made of.
        source: The graph as a function.
        layers: The weight [N, K] of each layer to replace.
        convert: Turns a weight [N, K], of `dtype` on `device`, into what `torch.nn.functional.linear` is to read.
        device: The device that the copy runs on.
        dtype: The dtype of the copy's parameters.
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
        calls = {use: read_call(node) if node is not None else None for use, node in found.items()}
        if any(product is None for product in calls.values()):
            reasons[layer.name] = "its node is no product that torch.sparse can compute"
            continue
        name = f"two_four_{len(added)}"
        added[name] = convert(weight.to(device, dtype).contiguous())
        for use, product in calls.items():
            node = found[use]
            if node is not None and product is not None and isinstance(use.view, Rows):
                _replace(copy, node, product, name, use.view.k_axis)
        replaced[layer.name] = len(layer.uses)
    copy.eliminate_dead_code()
    root = _make_root(source, copy, added, device, dtype)
    _move_to_device(copy, device)
    copy.lint()
    return Rewritten(fx.GraphModule(root, copy, "TwoFour"), replaced, reasons)


def read_call(node: fx.Node) -> Call | None:
    """Reads how a node multiplies by a stored weight; None where it is no product that is known here."""
    args, kwargs = node.args, node.kwargs
    if node.target in LINEAR:
        return _make_call(args[0], bias=args[2] if len(args) > 2 else kwargs.get("bias"))  # noqa: PLR2004
    if node.target in ADDMM:
        factors = {name: float(kwargs.get(name, 1.0)) for name in ("alpha", "beta")}  # type: ignore[arg-type]
        return _make_call(args[1], bias=args[0], **factors)
    if node.target in PRODUCTS:
        is_left = _is_stored(args[0])
        return _make_call(args[1] if is_left else args[0], is_left=is_left)
    if node.target is gemm:
        is_left = _is_stored(args[0])
        factors = {name: float(kwargs.get(name, 1.0)) for name in ("alpha", "beta")}  # type: ignore[arg-type]
        bias = args[2] if len(args) > 2 else None  # noqa: PLR2004
        return _make_call(args[1] if is_left else args[0], bias=bias, is_left=is_left, **factors)
    return None


def _make_call(x: Any, **facts: Any) -> Call | None:
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


def _replace(graph: fx.Graph, node: fx.Node, product: Call, weight: str, k_axis: int) -> None:
    with graph.inserting_before(node):
        operand = graph.get_attr(weight)
        options: dict[str, Any] = {
            "alpha": product.alpha,
            "beta": product.beta,
            "k_axis": k_axis,
            "is_left": product.is_left,
        }
        new = graph.call_function(multiply, (product.x, operand, product.bias), options)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _make_root(
    source: Differentiable, graph: fx.Graph, added: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Copies what the nodes read to `device`; tensors that no layer reads any more are left out."""
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


def _move_to_device(graph: fx.Graph, device: torch.device) -> None:
    """Makes the nodes that create tensors create them on `device`."""
    for node in graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": device}
