"""Activations that are spelled out, node by node, become one call; others stay as they are."""

import math
from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from onnx import numpy_helper, parser
from torch import Tensor, fx, nn

from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.onnx_to_fx.convert import convert_model
from prox24_export.passes.refine.activations import fuse_activations
from prox24_export.passes.refine.segments import find_cuts

ROOT = math.sqrt(2 / math.pi)
X = torch.cat([torch.linspace(-30, 30, 601), torch.randn(8, generator=torch.Generator().manual_seed(0))])

SPELLED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "erf": (lambda x: 0.5 * x * (1 + torch.erf(torch.div(x, math.sqrt(2)))), F.gelu),
    "erf, halved last": (lambda x: torch.div(x * (torch.erf(x * math.sqrt(0.5)) + 1), 2), F.gelu),
    "erf, as a probability": (lambda x: x * (0.5 * torch.erf(x * 0.70710677) + 0.5), F.gelu),
    "tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "tanh, factored": (
        lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "sigmoid": (lambda x: x * torch.sigmoid(x), F.silu),
    "quotient": (lambda x: torch.div(x, 1 + torch.exp(-x)), F.silu),
    "mish": (lambda x: x * torch.tanh(torch.log1p(torch.exp(x))), F.mish),
    "hard swish": (lambda x: torch.div(x * torch.clamp(x + 3, 0, 6), 6), F.hardswish),
}


def trace(function: Callable[..., Tensor]) -> fx.GraphModule:
    """A function of tensors as a graph module."""
    return fx.symbolic_trace(function)


def list_calls(module: fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_spelled_out_is_one_call(name: str) -> None:
    spelled, whole = SPELLED[name]
    module = trace(spelled)
    assert fuse_activations(module) == 1
    assert len(list_calls(module)) == 1
    x, y = (X.clone().requires_grad_() for _ in range(2))
    (ours,) = torch.autograd.grad(module(x).sum(), x)
    (theirs,) = torch.autograd.grad(spelled(y).sum(), y)
    torch.testing.assert_close(module(X), whole(X))
    torch.testing.assert_close(module(X), spelled(X), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.0448 * x * x * x))),
        lambda x: 0.51 * x * (1 + torch.erf(torch.div(x, math.sqrt(2)))),
        lambda x: x * torch.tanh(x),
        lambda x: x * torch.sigmoid(x.flip(0)),
        lambda x: torch.sigmoid(x) * 2,
        lambda x: x * 0.5 * (1 + 1),
        lambda x: x * torch.sigmoid(torch.cumsum(x, 0) - torch.cumsum(x, 0) + x),
    ],
)
def test_what_only_looks_like_one_stays(function: Callable[[Tensor], Tensor]) -> None:
    module = trace(function)
    before = list_calls(module)
    assert fuse_activations(module) == 0
    assert list_calls(module) == before


def test_a_long_polynomial_of_one_value_is_left_soon() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.tanh(x)
        for power in range(3_000):
            y = y * x + power
        return y * x

    assert fuse_activations(trace(function)) == 0


@pytest.mark.parametrize("bound", [13, 30, 1e4, 1e20])
def test_a_bound_before_an_activation_stays_however_far_it_is(bound: float) -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.clamp(x, -bound, bound)
        return y * torch.sigmoid(y)

    module, x = trace(function), torch.tensor([-3.0, 3.0, 2.0 * bound])
    assert fuse_activations(module) == 1
    assert list_calls(module) == [torch.clamp, F.silu]
    torch.testing.assert_close(module(x), function(x))


def test_a_gate_of_another_value_stays_beside_the_activation() -> None:
    module = trace(lambda x, gate: x * torch.sigmoid(x) * gate)
    assert fuse_activations(module) == 1
    assert len(list_calls(module)) == 2
    torch.testing.assert_close(module(X, X.flip(0)), F.silu(X) * X.flip(0))


def test_activations_follow_each_other_and_values_between_may_be_read_elsewhere() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(x)
        first = x * share
        return first * torch.sigmoid(first), share

    module = fx.symbolic_trace(function)
    assert fuse_activations(module) == 2
    assert list_calls(module) == [torch.sigmoid, F.silu, F.silu]
    for got, wanted in zip(module(X), function(X), strict=True):
        torch.testing.assert_close(got, wanted)


class Scaled(nn.Module):
    """`x · sigmoid(s · x)`, with a constant or a parameter, with axes or without."""

    def __init__(self, scale: Tensor, *, learnt: bool) -> None:
        super().__init__()
        if learnt:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(torch.mul(self.scale, x))


@pytest.mark.parametrize(
    ("scale", "learnt", "fused"),
    [(torch.tensor(1.0), False, 1), (torch.tensor(1.0), True, 0), (torch.ones(609), False, 0)],
)
def test_only_constants_without_axes_are_part_of_an_activation(scale: Tensor, learnt: bool, fused: int) -> None:
    module = fx.symbolic_trace(Scaled(scale, learnt=learnt))
    assert fuse_activations(module) == fused
    torch.testing.assert_close(module(X), F.silu(X))


def test_an_exported_program_is_fused_by_its_operators() -> None:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            bent = torch.tanh(ROOT * (y + 0.044715 * torch.pow(y, 3.0)))
            return torch.mul(0.5 * y, 1 + bent)

    x = torch.randn(4, 6)
    module = make_flat_module(torch.export.export(Spelled().eval(), (x,))).module
    (wanted,) = module(x)
    assert fuse_activations(module) == 1
    assert list_calls(module) == [torch.ops.aten.linear.default, F.gelu]
    torch.testing.assert_close(module(x)[0], wanted)


class Positions(nn.Module):
    """`p · sigmoid(p)` of integers: a buffer, or what is given."""

    def __init__(self, *, given: bool) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(6))
        self.given = given

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        places = index if self.given else self.places
        assert isinstance(places, Tensor)
        return x + places * torch.sigmoid(places)


@pytest.mark.parametrize("given", [False, True])
def test_integers_have_no_activation_in_one_call(given: bool) -> None:
    x, index = torch.randn(4, 6), torch.arange(6)
    module = make_flat_module(torch.export.export(Positions(given=given), (x, index))).module
    (wanted,) = module(x, index)
    assert fuse_activations(module) == 0
    torch.testing.assert_close(module(x, index)[0], wanted)


def test_integers_of_an_onnx_file_have_none_either() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    integers (int32[N, 8] x) => (int32[N, 8] y)
    <int32 three = {3}, int32 zero = {0}, int32 six = {6}>
    { raised = Add(x, three) kept = Clip(raised, zero, six) product = Mul(x, kept) y = Div(product, six) }
    """
    module = convert_model(ir.from_proto(parser.parse_model(text)), widen=False).module
    assert fuse_activations(module) == 0


def test_vectors_of_numbers_are_no_constants_of_an_activation() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    powers (float[N, 8] x) => (float[N, 8] y)
    <float[8] exponent = {1, 2, 1, 2, 1, 2, 1, 2}, float two = {2}>
    { bent = Sigmoid(x) raised = Pow(bent, exponent) y = Div(raised, two) }
    """
    module = convert_model(ir.from_proto(parser.parse_model(text)), widen=False).module
    assert fuse_activations(module) == 0


ONNX = """
<ir_version: 10, opset_import: ["": 18]>
spelled (float[N, 8] x) => (float[N, 8] y)
<float cube = {0.044715}, float root = {0.7978846}, float one = {1}, float half = {0.5}>
{
    product = MatMul(x, w)
    h = Add(b, product)
    squared = Mul(h, h)
    cubed = Mul(h, squared)
    scaled = Mul(cube, cubed)
    inner = Add(h, scaled)
    rooted = Mul(root, inner)
    bent = Tanh(rooted)
    raised = Add(one, bent)
    twice = Mul(h, raised)
    act = Mul(half, twice)
    y = MatMul(act, w)
}
"""


def test_nodes_of_an_onnx_file_are_fused_and_keep_the_name_of_their_value() -> None:
    proto, generator = parser.parse_model(ONNX), torch.Generator().manual_seed(0)
    for name, shape in {"w": (8, 8), "b": (8,)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(torch.randn(shape, generator=generator).numpy(), name))
    onnx.checker.check_model(proto)
    module, x = convert_model(ir.from_proto(proto), widen=False).module, X[:600].reshape(-1, 8)
    cuts, wanted = find_cuts(module, {"w"}), module(x)[0]
    assert fuse_activations(module) == 1
    (call,) = (node for node in module.graph.nodes if node.target is F.gelu)
    assert call.meta["value"] == "act"
    assert call.kwargs == {"approximate": "tanh"}
    assert len(list_calls(module)) == 4
    assert len(find_cuts(module, {"w"})) == len(cuts) > 0
    torch.testing.assert_close(module(x)[0], wanted)
