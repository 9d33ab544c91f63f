"""Where a network is cut: behind one tensor, never at several that stand together in a tuple."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.onnx_to_fx.convert import ConvertToFx
from prox24_export.passes.refine.model import RefineModel
from prox24_export.passes.refine.segment_streams import SegmentStreams
from prox24_export.passes.refine.segments import add_outputs, find_cuts, find_segments
from tests.graphs import model, normal, opened
from tests.simulated_gpu import GPU, simulate_gpu

ONNX = """g (float[n,4] x) => (float[n,4] y) {
    h = MatMul(x, u) a, b = Split<axis = 1, num_outputs = 2>(h) c = MatMul(a, v) s = Sigmoid(b) m = Mul(c, s) y = MatMul(m, w)
}"""  # noqa: E501 - a graph on one line


class Gated(nn.Module):
    """A product of which one half is multiplied again and the other is its gate, as in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.inner, self.last = nn.Linear(4, 16), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.both(x).chunk(2, -1)
        result: Tensor = self.last(self.inner(values) * gates.sigmoid())
        return result


def make_gated(kind: str, folder: Path) -> fx.GraphModule:
    if kind == "onnx":
        proto = model(ONNX, {"u": normal(4, 16), "v": normal(8, 8), "w": normal(8, 4)}, opset=18)
        return ConvertToFx().call(graph=opened(proto, folder)).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        shapes = ({0: torch.export.Dim.AUTO},)
        program = torch.export.export(Gated().eval(), (torch.zeros(2, 4),), dynamic_shapes=shapes)
        return make_flat_module(program.run_decompositions({})).module


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_several_values_in_a_tuple_are_no_cut(kind: str, tmp_path: Path) -> None:
    module = make_gated(kind, tmp_path)
    weights = {name: weight.detach() for name, weight in module.named_parameters() if weight.ndim == 2}
    cuts = add_outputs(module, find_cuts(module, weights))(torch.randn(3, 4))[1:]
    assert [tuple(value.shape) for value in cuts] == [(3, 16), (3, 8)]
    masks = {name: torch.ones_like(weight) for name, weight in weights.items()}
    samples = [(torch.randn(1, 4),) for _ in range(8)]
    refined = RefineModel(epochs=1).call(
        dense=module, weights=weights, masks=masks, fit=samples[:4], choice=samples[4:]
    )
    assert len(refined.parts) == 1


def test_a_network_that_nothing_cuts_is_one_segment() -> None:
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    graph.output((graph.call_function(torch.relu, (graph.call_function(torch.matmul, (x, weight)),)),))
    root = nn.Module()
    root.weight = nn.Parameter(torch.ones(4, 4))
    module = fx.GraphModule(root, graph)
    assert find_cuts(module, {"weight"}) == ()
    (segment,) = find_segments(module, {"weight"})
    assert torch.equal(segment.module(torch.ones(2, 4))[0], module(torch.ones(2, 4))[0])


def test_a_gpu_gets_a_batch_when_it_is_read_and_what_both_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """g (float[n,4] x, float[1] s) => (float[n,4] y) {
        m = Mul(x, s) h = MatMul(m, u) r = Relu(h) z = MatMul(r, v) y = Mul(z, s)
    }"""
    module = ConvertToFx().call(graph=opened(model(text, {"u": normal(4, 24), "v": normal(24, 4)}), tmp_path)).module
    batches = [(torch.randn(5, 4), torch.full((1,), 2.0)) for _ in range(3)]
    with simulate_gpu(monkeypatch) as traffic:
        segments = find_segments(module.to(GPU), [name for name, _ in module.named_parameters()])
        streams = SegmentStreams(module, segments, batches, GPU)
        traffic.uploads.clear()
        first, *others = streams.pairs(segments[0])
        assert (len(others), traffic.uploads) == (2, [])  # trial steps may keep several
        dense, sparse = first
        assert sparse is dense
        assert all(value.device == GPU for value in dense)
        assert len(traffic.uploads) == len(segments[0].inputs)
        streams.advance(0, segments[0], {segments[0].weights[0]: torch.zeros(4, 24, device=GPU)})
        traffic.uploads.clear()
        dense, sparse = next(streams.pairs(segments[1]))
        same = [one is other for one, other in zip(dense, sparse, strict=True)]
        assert sorted(same) == [False, True]  # the scale is the same in both
        assert len(traffic.uploads) == 3
