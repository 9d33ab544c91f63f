"""The whole graph as a differentiable function, whichever front end it came from."""

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.front_torch.graph import expect_fx_graph
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.onnx_to_fx.check import check_conversion
from prox24_export.passes.onnx_to_fx.convert import ConvertToFx


def make_differentiable(graph: TracedGraph, feeds: Feeds) -> Differentiable:
    """The graph as a differentiable function, all of it in memory.

    An ONNX graph is converted, and compared with ONNX Runtime on `feeds`; a torch program runs as it is.

    Raises:
        NotDifferentiableError: An operator has no gradient here.
        DivergenceError: The function computes something else; it names the first node that differs.
    """
    if not isinstance(graph, OnnxGraph):
        return make_flat_module(expect_fx_graph(graph).whole_program())
    converted = ConvertToFx().call(graph=graph)
    check_conversion(converted, graph, feeds)
    return Differentiable(converted.module, converted.parameters)
