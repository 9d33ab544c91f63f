"""What is written down is what torch's own tracer writes down, and what depends on data is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from prox24_export.passes.permute.record import OperatorRecorder

X, W = torch.randn(4, 8), torch.randn(8, 8)


def attend(x: Tensor, w: Tensor) -> Tensor:
    q, k = (x @ w).split_with_sizes([4, 4], -1)
    found: Tensor = nn.functional.layer_norm((q @ k.T).softmax(-1) @ q, (4,)) + 1
    return found


def split(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = torch.nn.functional.pad(x, (0, 0, 1, 1)).topk(2)
    return values @ w[:2], torch.cat([indices, indices])


def use_constant(x: Tensor, w: Tensor) -> Tensor:
    scale = torch.tensor([2.0])
    return x * scale.item() + w[: len(x)] * scale


def change_in_place(x: Tensor, w: Tensor) -> Tensor:
    y = x @ w
    y.mul_(2)
    return y.reshape(2, -1)


def record(function: Callable[..., Any]) -> OperatorRecorder:
    recorder = OperatorRecorder(core_aten_decompositions())
    recorder.take("x_1", X)
    recorder.take("w_1", W)
    with recorder:
        result = function(X, W)
    recorder.give(result if isinstance(result, tuple) else (result,))
    return recorder


def list_calls(graph: fx.Graph) -> list[tuple[Any, Any]]:
    """Every call, with the numbers of the nodes that it reads instead of their names."""
    calls = [node for node in graph.nodes if node.op != "get_attr"]
    number = {node: place for place, node in enumerate(calls)}
    return [(node.target, fx.map_arg((node.args, node.kwargs), lambda one: number.get(one, -1))) for node in calls[:-1]]


@pytest.mark.parametrize("function", [attend, split, change_in_place])
def test_the_calls_are_those_of_torchs_tracer(function: Callable[..., Any]) -> None:
    theirs = make_fx(function, dict(core_aten_decompositions()))(X, W)
    assert list_calls(record(function).graph) == list_calls(theirs.graph)


@pytest.mark.parametrize("function", [attend, split, use_constant, change_in_place])
def test_the_graph_computes_the_same_and_shapes_are_known(function: Callable[..., Any]) -> None:
    recorder = record(function)
    root = nn.Module()
    for node in recorder.graph.nodes:
        if node.op == "get_attr":
            root.register_buffer(str(node.target), recorder.constants[node.name])
    found = fx.GraphModule(root, recorder.graph)(X, W)
    wanted = function(X, W)
    torch.testing.assert_close(found, wanted if isinstance(wanted, tuple) else (wanted,))
    outlines = [
        node.meta["val"] for node in recorder.graph.nodes if node.op == "output" for node in node.all_input_nodes
    ]
    assert [tuple(one.shape) for one in outlines] == [tuple(one.shape) for one in found]


def test_a_number_that_is_read_from_the_data_is_refused() -> None:
    with pytest.raises(RuntimeError, match="a size or a branch depends on the data"):
        record(lambda x, w: x * float(w.sum()))
