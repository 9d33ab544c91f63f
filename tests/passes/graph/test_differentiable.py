"""The way from pruned layers to parameters of a function: values, and the places of the groups of four."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import trace
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.passes.refine.differentiable import make_differentiable
from prox24_export.solver.pattern import two_four_mask
from tests.graphs import model, normal, save

GRAPH = """g (float[N,8,6,6] x) => (float[N,16,5] y) {
    c = Conv<kernel_shape=[3,3]>(x, conv)
    s = Constant<value_ints=[0,16,16]>()
    r = Reshape(c, s)
    y = MatMul(r, matmul) }"""


class Experts(nn.Module):
    """Three experts, each with its own rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Parameter(torch.randn(3, 12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.up.transpose(1, 2))


def onnx_graph(folder: Path) -> TracedGraph:
    weights = {"conv": normal(16, 8, 3, 3), "matmul": normal(16, 5, seed=1)}
    return OnnxGraph(save(model(GRAPH, weights), folder, "both.onnx"))


def experts_graph(_folder: Path) -> TracedGraph:
    return FxGraph(Path("experts"), trace(Experts(), (torch.zeros(3, 4, 8),), {}, "module"))


@pytest.mark.parametrize("make", [onnx_graph, experts_graph])
def test_the_groups_are_those_along_the_reduction_dimension(make: object, tmp_path: Path) -> None:
    assert callable(make)
    graph = make(tmp_path)
    linears = FindLinears().call(graph=graph).linears
    assert linears
    feeds = {
        value.name: np.ones([size if isinstance(size, int) else 2 for size in value.shape or ()], np.float32)
        for value in graph.inputs
    }
    function = make_differentiable(graph, feeds)
    weights = {}
    for linear in linears:
        matrix = graph.weight(linear)
        weights[linear.weight] = linear.to_stored(matrix * two_four_mask(matrix))
    pruned = function.pruned_parameters(linears, weights)
    groups = function.list_groups(linears, pruned)
    assert groups.keys() == pruned.keys() != set()
    for name, places in groups.items():
        assert sorted(places.flatten().tolist()) == list(range(pruned[name].numel()))
        assert int((pruned[name].flatten()[places] != 0).sum(1).max()) == 2
    assert function.list_groups(linears, ()) == {}
