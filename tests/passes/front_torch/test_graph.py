"""The torch front end: which nodes are linear, as which matrix, and that running stages is running the model."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor, nn

from prox24_export.errors import InputError
from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.arrays import as_array, as_tensor
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.verify_pattern import PatternError, VerifyPattern

AUTO = torch.export.Dim.AUTO
TOKENS = (2, 7, 8)
FOLD = (
    "the weight is computed from parameters by {}: store the result as a parameter first "
    "(torch.nn.utils.parametrize.remove_parametrizations), or export the model to ONNX"
)


class Of(nn.Module):
    """A module of parameters of given shapes and a function of the input and them."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.embed(x)))
        return logits


def traced(module: nn.Module, *inputs: Tensor) -> FxGraph:
    dynamic = {"dynamic_shapes": tuple({0: AUTO} for _ in inputs)}
    program = torch.export.export(module.eval(), inputs, **dynamic)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        return FxGraph(Path("model"), program.run_decompositions({}))


def told(graph: FxGraph) -> list[str]:
    lines = []
    for layer in FindLinears().call(graph=graph).layers:
        figures = f"{layer.op} [{layer.n}, {layer.k}]" if layer.k else layer.op
        lines.append(f"{layer.name}: {figures}" + ("" if isinstance(layer, Linear) else f": {layer.sentence}"))
    return lines


FOUND: list[tuple[nn.Module, tuple[int, ...], list[str]]] = [
    (nn.Linear(8, 6), TOKENS, ["weight: linear [6, 8]"]),
    (nn.Linear(6, 8), (3, 6), ["weight: linear [8, 6]: the reduction dimension is not a multiple of 4 (K = 6)"]),
    (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (3, 8), ["0: linear [16, 8]", "2: linear [4, 16]"]),
    (Of(F.linear, (6, 8)), TOKENS, ["weights.0: linear [6, 8]"]),
    (Of(lambda x, w: x @ w, (8, 6)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w: x @ w.t().contiguous(), (6, 8)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w: w @ x.transpose(1, 2), (6, 8)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w, b: torch.addmm(b, x, w), (8, 6), (6,)), (3, 8), ["weights.0: addmm [6, 8]"]),
    (Of(lambda x, w: x @ w[None].squeeze((0,)).mT, (6, 8)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w: x @ w.squeeze().adjoint(), (6, 1, 8)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w: x @ w.flatten(1).swapaxes(0, 1), (6, 2, 4)), TOKENS, ["weights.0: matmul [6, 8]"]),
    (Of(lambda x, w: F.linear(x, w.movedim(1, 0).swapdims(0, 1)), (6, 8)), TOKENS, ["weights.0: linear [6, 8]"]),
    (Of(lambda x, w: F.linear(x, w.view(6, 8)), (6, 2, 4)), (3, 8), ["weights.0: linear [6, 8]"]),
    (nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 9), ["weight: conv1d [6, 12]"]),
    (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2)), (2, 4, 9, 9), ["weight: conv2d [6, 24]"]),
    (
        nn.Conv2d(3, 6, 3),
        (2, 3, 9, 9),
        ["weight: conv2d [6, 27]: the reduction dimension is not a multiple of 4 (C_in = 3)"],
    ),
    (
        nn.Conv1d(8, 8, 3, groups=2),
        (2, 8, 9),
        ["conv1d: conv1d [8, 12]: grouped or depthwise convolution: TensorRT has no sparse kernel for it"],
    ),
    (
        nn.ConvTranspose1d(8, 8, 3),
        (2, 8, 9),
        ["conv_transpose1d: conv_transpose1d [8, 24]: transposed convolution: TensorRT has no sparse kernel for it"],
    ),
    (nn.Conv1d(4, 6, 3), (4, 9), ["conv1d: conv1d [6, 12]: convolution without a batch axis"]),
    (
        Of(torch.bmm, (2, 8, 4)),
        TOKENS,
        ["weights.0[0]: bmm [4, 8]", "weights.0[1]: bmm [4, 8]"],
    ),
    (
        Of(lambda x, w: torch.einsum("btk,kn->btn", x, w), (8, 4)),
        TOKENS,
        ["einsum: einsum: Einsum: no sparse kernel reads its operands"],
    ),
    (Of(lambda x, w: x @ w, (8,)), TOKENS, ["matmul: matmul: the weight is a vector, not a matrix"]),
    (Of(lambda x: x @ x.transpose(1, 2)), TOKENS, ["matmul: matmul: the weight is not a constant of the model"]),
    (Of(lambda x, w: F.linear(x, w.abs()), (6, 8)), TOKENS, [f"linear: linear [6, 8]: {FOLD.format('abs')}"]),
    (Of(lambda x, w: w.abs() @ x.transpose(1, 2), (6, 8)), TOKENS, [f"matmul: matmul [6, 8]: {FOLD.format('abs')}"]),
    (
        nn.utils.parametrizations.weight_norm(nn.Conv1d(7, 6, 3)),
        TOKENS,
        [f"conv1d: conv1d [6, 21]: {FOLD.format('_weight_norm')}"],
    ),
    (
        Of(lambda x, w: F.linear(x, F.dropout(w, training=True)), (6, 8)),
        TOKENS,
        ["linear: linear: the weight is not a constant of the model"],
    ),
    (
        Of(lambda x, w: F.linear(x, w) * w.abs().sum(), (6, 8)),
        TOKENS,
        ["weights.0: linear [6, 8]: the weight is also read by a node that is not a linear layer (abs_1)"],
    ),
    (Of(lambda x, w: F.linear(F.linear(x, w), w), (8, 8)), TOKENS, ["weights.0: linear [8, 8]"]),
    (
        Of(lambda x, w: F.linear(x, w) @ w, (8, 8)),
        TOKENS,
        [
            f"{name}: {op} [8, 8]: the weight is used along two different axes: no 2:4 pattern fits both "
            "(nodes weights.0, weights.0#2)"
            for name, op in (("weights.0", "linear"), ("weights.0#2", "matmul"))
        ],
    ),
    (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False),
        TOKENS,
        [
            "layers.0.self_attn.in_proj_weight: linear [24, 8]",
            "layers.0.self_attn.out_proj: linear [8, 8]",
            "layers.0.linear1: linear [16, 8]",
            "layers.0.linear2: linear [8, 16]",
        ],
    ),
]


@pytest.mark.parametrize(("module", "shape", "expected"), FOUND, ids=[f"{i}" for i in range(len(FOUND))])
def test_what_is_found_and_why_not(module: nn.Module, shape: tuple[int, ...], expected: list[str]) -> None:
    assert told(traced(module, torch.randn(shape))) == expected


class Buffered(nn.Module):
    """Multiplies by a buffer, changes a sum in place, and returns a parameter's function and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mixing: Tensor
        self.register_buffer("mixing", torch.ones(8, 8))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.first(x)
        y += self.second(x @ self.mixing)
        y[:, 0] = 0
        return y, self.scale.exp(), x


def test_buffers_outputs_that_are_inputs_and_changes_in_place_are_no_trouble() -> None:
    module = Buffered()
    graph = traced(module, torch.randn(3, 8))
    assert told(graph) == [
        "first: linear [8, 8]",
        "matmul: matmul: the weight is not a constant of the model",
        "second: linear [8, 8]",
    ]
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    kept = x.copy()
    results = graph.runner()({"x": x})
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(x, kept)


def test_a_program_that_changes_tensors_in_place_is_refused() -> None:
    program = torch.export.export(Buffered().eval(), (torch.randn(3, 8),))
    with pytest.raises(InputError, match=r"changes a tensor in place\. Expected a functional program"):
        FxGraph(Path("model"), program)


def test_a_weight_that_is_another_one_turned_stays_dense() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = nn.Parameter(first.weight.detach().t())
    lines = told(traced(nn.Sequential(first, second), torch.randn(3, 8)))
    assert len(lines) == 2
    assert all("shares memory with another weight" in line for line in lines)


def test_a_random_node_draws_the_same_in_both_streams() -> None:
    graph = traced(Of(lambda x, w: F.linear(x + torch.rand_like(x), w), (4, 8)), torch.randn(3, 8))
    x = np.zeros((3, 8), np.float32)
    assert np.array_equal(graph.runner()({"x": x})[0], graph.runner()({"x": x})[0])
    assert any(node.is_random for node in graph.nodes)


def test_the_residual_is_none_where_rows_would_not_pair() -> None:
    left = traced(Of(lambda x, w: w @ x + x.relu(), (8, 8)), torch.randn(2, 8, 8))
    (linear,) = FindLinears().call(graph=left).layers
    assert isinstance(linear, Linear)
    assert linear.uses[0].residual is None
    past_bias = traced(Of(lambda x, w, b: x @ w + b + x.relu(), (8, 8), (8,)), torch.randn(3, 8))
    (linear,) = FindLinears().call(graph=past_bias).layers
    assert isinstance(linear, Linear)
    assert linear.uses[0].residual == "relu"


def test_a_head_tied_to_the_embedding_stays_dense_under_its_own_name() -> None:
    graph = traced(Tied(), torch.zeros(2, 5, dtype=torch.int64))
    assert told(graph) == [
        "body: linear [8, 8]",
        "head: linear [12, 8]: the weight is tied to an embedding lookup (embedding)",
    ]
    assert graph.parameters == 12 * 8 + 8 * 8 + 8
    assert graph.gathered_rows == {"x": 12}


@pytest.mark.parametrize(
    ("module", "shape"),
    [(module, shape) for module, shape, expected in FOUND if any(": the" not in line for line in expected)],
)
def test_view_and_weight_give_the_nodes_result(module: nn.Module, shape: tuple[int, ...]) -> None:
    """`X Wᵀ` by the activation's view is what the node computes, less its bias."""
    graph = traced(module, torch.randn(shape))
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for linear in (layer for layer in FindLinears().call(graph=graph).linears):
        for use in linear.uses:
            node = next(node for node in graph.nodes if node.name == use.node)
            values = graph.compile(graph.nodes, {}, [use.activation, *node.outputs], {})({graph.inputs[0].name: x})
            values.setdefault(use.activation, torch.from_numpy(x))
            zeros = {linear.weight: np.zeros_like(graph.stored(linear.weight))}
            bias = graph.compile([node], {}, node.outputs, zeros)(values)[node.outputs[0]]
            activation, result = values[use.activation], values[node.outputs[0]] - bias
            if use.expert is not None:
                activation, result = activation[use.expert.index], result[use.expert.index]
            product = torch.cat(list(use.view.chunks(activation))) @ graph.weight(linear).T
            if result.shape[-1] != linear.n or linear.op.startswith("conv"):  # [N, tokens] or [N, positions]
                result = result.movedim(1, -1)
            torch.testing.assert_close(product, result.reshape(-1, linear.n), rtol=1e-4, atol=1e-4)


def test_the_residual_branch_is_found_through_reshapes() -> None:
    graph = traced(Of(lambda x, w: x + F.linear(x.relu(), w).view(-1, 7, 8), (8, 8)), torch.randn(TOKENS))
    (linear,) = FindLinears().call(graph=graph).layers
    assert isinstance(linear, Linear)
    assert linear.uses[0].residual == "x"


def test_stage_by_stage_is_the_whole_model() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    graph = traced(module, torch.randn(3, 8))
    linears = FindLinears().call(graph=graph).linears
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    streams = Streams(graph, [Batch("fit", {"input": x})])
    stages = schedule(graph, linears)
    assert len(stages) == 3
    halved: dict[str, Any] = {}
    dense = pruned = torch.from_numpy(x)
    for stage, layers in zip(stages, ((), (0, 1), (2, 3)), strict=True):
        seen = Calibrate().call(streams=streams, stage=stage, weights=halved).observations[stage.linears[0].name].fit
        with torch.no_grad():
            for index in layers:
                dense = module[index](dense)
                bias = module[index].bias if index in {0, 2} else 0
                pruned = (module[index](pruned) + bias) / 2 if index in {0, 2} else module[index](pruned)
        torch.testing.assert_close(seen.gram, (pruned.T @ pruned).double(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(seen.cross, (dense.T @ pruned).double(), rtol=1e-5, atol=1e-4)
        weight = stage.linears[0].weight
        halved[weight] = graph.stored(weight) / 2


def test_a_weight_that_is_turned_before_it_is_used_runs_pruned_in_later_stages() -> None:
    """Turning it depends on no input; it must not be done once and for all with the dense weight."""
    module = Of(lambda x, first, second: (x @ first.t()).relu() @ second.t(), (8, 8), (8, 8))
    graph = traced(module, torch.randn(3, 8))
    linears = FindLinears().call(graph=graph).linears
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    streams = Streams(graph, [Batch("fit", {"x": x})])
    first, second = schedule(graph, linears)
    Calibrate().call(streams=streams, stage=first, weights={})
    zeroed = {linears[0].weight: np.zeros_like(graph.stored(linears[0].weight))}
    seen = Calibrate().call(streams=streams, stage=second, weights=zeroed).observations[linears[1].name].fit
    assert float(seen.gram.abs().sum()) == 0 < float(seen.dense.sum())


def test_the_whole_runs_as_the_module_does_for_another_batch() -> None:
    module = FOUND[-1][0]
    graph = traced(module, torch.randn(TOKENS))
    x = torch.randn(5, 7, 8)
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(torch.from_numpy(graph.runner()({"src": x.numpy()})[0]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_pass_through_arrays_bit_by_bit(dtype: torch.dtype) -> None:
    tensor = torch.randn(4, 8).to(dtype)
    assert torch.equal(as_tensor(as_array(tensor)), tensor)
    graph = traced(nn.Linear(8, 4).to(dtype), torch.randn(3, 8).to(dtype))
    (linear,) = FindLinears().call(graph=graph).layers
    assert isinstance(linear, Linear)
    back = linear.to_stored(graph.weight(linear))
    assert np.array_equal(back, graph.stored(linear.weight))
    assert back.dtype == graph.stored(linear.weight).dtype
    single = linear.to_stored(graph.weight(linear).float())  # as refined
    assert single.dtype == back.dtype
    np.testing.assert_allclose(single.astype(np.float64), back.astype(np.float64), rtol=1e-6)


def test_a_pattern_that_is_not_two_four_is_noticed() -> None:
    graph = traced(nn.Linear(8, 4), torch.randn(3, 8))
    linears = FindLinears().call(graph=graph).linears
    with pytest.raises(PatternError, match="8 of 8 groups are not 2:4"):
        VerifyPattern().call(graph=graph, linears=linears)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: F.dropout(x, 0.5, training=False), False),
        (lambda x: F.dropout(x, 0.5, training=True), True),
        (lambda x: F.scaled_dot_product_attention(x, x, x), False),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), True),
        (lambda x: F.rrelu(x, training=False), False),
        (torch.randn_like, True),
    ],
)
def test_only_what_draws_random_numbers_is_called_random(function: Callable[[Tensor], Tensor], wanted: bool) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + function(x)

    assert any(node.is_random for node in traced(Module(), torch.randn(2, 3, 4, 8)).nodes) == wanted
