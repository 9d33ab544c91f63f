"""Makes a whole graph a differentiable function, whichever front end opened it."""

from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.differentiable import Differentiable
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.refine.activations import fuse_activations


def make_differentiable(graph: TracedGraph, feeds: Feeds) -> Differentiable:
    """Makes a graph a differentiable function, with all its weights in memory.

    An ONNX graph is converted, and the result is compared with ONNX Runtime on `feeds`. A torch program runs as it is.
    Then activations that are spelled out become one call each.

    Args:
        graph: The model.
        feeds: Arrays by input name to compare on.

    Raises:
        NotDifferentiableError: An operator has no gradient here.
        DivergenceError: The function computes something else than the model; the message names the first node that
            differs.
    """
    function = _follow(graph, feeds)
    fuse_activations(function.module)
    return function


def _follow(graph: TracedGraph, feeds: Feeds) -> Differentiable:
    """Makes a function that follows the graph node by node."""
    if isinstance(graph, FxGraph):
        return make_flat_module(graph.whole_program())
    from prox24_export.passes.front_onnx.graph import OnnxGraph  # noqa: PLC0415 - torch programs do without ONNX
    from prox24_export.passes.onnx_to_fx.check import check_conversion  # noqa: PLC0415
    from prox24_export.passes.onnx_to_fx.convert import ConvertToFx  # noqa: PLC0415

    if not isinstance(graph, OnnxGraph):
        raise TypeError(f"graph must be an FxGraph or an OnnxGraph. Got {type(graph).__name__}.")
    converted = ConvertToFx().call(graph=graph)
    check_conversion(converted, graph, feeds)
    return Differentiable(converted.module, converted.parameters, dequantised=converted.dequantised)
