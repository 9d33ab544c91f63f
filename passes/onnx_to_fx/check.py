"""Compares the torch function made of an ONNX model with ONNX Runtime, and names the first node that differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from prox24_export.errors import InputError, Prox24Error, first_line
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Feeds, Node
from prox24_export.passes.onnx_to_fx.convert import Converted, find_executed_model
from prox24_export.passes.onnx_to_fx.table import NotDifferentiableError

Follow = Callable[[fx.Node, Any], Any]  # what a run goes on with after a node, of the node and what it has given

TOLERANCE = 1e-3  # relative to the entry and to the median magnitude; two float32 runtimes differ by some 1e-5
TOLERANCE_WIDENED = 3e-2  # ONNX Runtime rounds every value of these models to float16
CLOSER = 10  # times as small is the tolerance of a node by itself, in which nothing has added up
WIDE = 4  # bytes of float32; narrower floats are rounded to far fewer digits
MAY_DIFFER = 1e-3  # share of entries that need not agree: a rounding to integers may go the other way


class DivergenceError(Prox24Error):
    """The function made from a model computes something else than ONNX Runtime.

    Attributes:
        node: Name of the first node that differs.
        operator: Operator of that node.
    """

    def __init__(self, node: str, operator: str, value: str, found: str) -> None:
        """Makes the error.

        Args:
            node: Name of the first node that differs.
            operator: Operator of that node.
            value: Name of the value that differs.
            found: The end of the sentence, which says how the value differs.
        """
        super().__init__(
            f"the differentiable function differs from ONNX Runtime, first at node {node} ({operator}): "
            f"value {value!r} {found}"
        )
        self.node = node
        self.operator = operator


def check_conversion(converted: Converted, graph: OnnxGraph, feeds: Feeds) -> None:
    """Runs one batch through the function and through ONNX Runtime, and expects their outputs to agree.

    An entry agrees if its difference is at most `TOLERANCE` (`TOLERANCE_WIDENED` where float16 is computed in float32)
    times the sum of its own magnitude and the median magnitude of the output. One entry in a thousand need not agree.

    Some models make large differences of roundings, such as by a variance that is computed as E[x²] − E[x]². Where an
    output differs, every node is therefore compared by itself, on what ONNX Runtime has computed before it, and ten
    times as closely. If all agree, so does the model.

    Args:
        converted: The function made from `graph`.
        graph: The model.
        feeds: Arrays by input name, of the types that `graph.inputs` declares.

    Raises:
        DivergenceError: An output differs; the message names the first node whose value differs.
        NotDifferentiableError: torch cannot run a node on these feeds.
        InputError: ONNX Runtime cannot load the model.
    """
    tolerance = TOLERANCE_WIDENED if converted.is_widened else TOLERANCE
    outputs = evaluate(converted, _make_arguments(converted, feeds))
    wanted = _run_reference(graph, graph.outputs, feeds)
    found = (
        find_difference(ours, theirs, tolerance, exact_type=not converted.is_widened)
        for ours, theirs in zip(outputs, wanted, strict=True)
    )
    differing = [(name, text) for name, text in zip(graph.outputs, found, strict=True) if text]
    if differing:
        arguments = _make_arguments(converted, feeds)

        def run(follow: Follow) -> None:
            _Evaluation(converted.module, follow).run(*arguments)

        expect_nodes_to_agree(run, converted, graph, feeds, differing)


def evaluate(converted: Converted, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Computes the outputs for these inputs, node by node and without gradients.

    Raises:
        NotDifferentiableError: torch cannot run a node on these feeds.
    """
    outputs: tuple[Tensor, ...] = _Evaluation(converted.module).run(*arguments)
    return outputs


def find_difference(ours: Tensor, theirs: Array, tolerance: float, *, exact_type: bool) -> str | None:
    """Finds the difference between a value of torch and one of ONNX Runtime.

    Args:
        ours: The value of torch.
        theirs: The value of ONNX Runtime.
        tolerance: Most difference of an entry, relative to its magnitude plus the median magnitude.
        exact_type: Whether the types must be the same.

    Returns:
        The end of a sentence that says how they differ; None where they agree.
    """
    got = ours.detach().cpu().numpy()
    if exact_type and got.dtype != theirs.dtype:
        return f"is {got.dtype}, expected {theirs.dtype}"
    if got.shape != theirs.shape:
        return f"has shape {list(got.shape)}, expected {list(theirs.shape)}"
    if not theirs.size:
        return None
    a, b = got.astype(np.float64), theirs.astype(np.float64)
    scale = _find_scale(theirs)
    with np.errstate(invalid="ignore"):
        agrees = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tolerance * (np.abs(b) + scale))
    differing = ~agrees
    if differing.sum() <= MAY_DIFFER * differing.size:
        return None
    first = tuple(int(place) for place in np.argwhere(differing)[0])
    return (
        f"differs in {int(differing.sum())} of {differing.size} entries, first at {list(first)}: "
        f"{a[first]:.6g}, expected {b[first]:.6g}"
    )


def agree_on_device(ours: Tensor, theirs: Array, tolerance: float) -> bool:
    """Whether a value of torch agrees with one of ONNX Runtime, as `find_difference` has it, whatever its type.

    The value of ONNX Runtime goes to the device of the other one, of which nothing comes back but the answer.
    """
    if tuple(ours.shape) != theirs.shape:
        return False
    if not theirs.size:
        return True
    a, b = ours.detach().double(), torch.from_numpy(theirs.astype(np.float64)).to(ours.device)
    near = (a - b).abs() <= tolerance * (b.abs() + _find_scale(theirs))
    differing = ~((a == b) | (torch.isnan(a) & torch.isnan(b)) | near)
    return int(differing.sum()) <= MAY_DIFFER * theirs.size


def expect_nodes_to_agree(
    run: Callable[[Follow], object],
    converted: Converted,
    graph: OnnxGraph,
    feeds: Feeds,
    outputs: Sequence[tuple[str, str]],
) -> None:
    """Expects each node to compute what ONNX Runtime computes, and names the first one that does not.

    Args:
        run: Runs the function on `feeds`, and calls what it is given after each of its nodes.
        converted: The function.
        graph: The model.
        feeds: As for `check_conversion`.
        outputs: The outputs that differ, with how they do.

    Raises:
        DivergenceError: A node differs, or an output that no node computes.
    """
    tolerance = TOLERANCE_WIDENED if converted.is_widened else TOLERANCE
    comparison = NodeComparison(lambda _theirs: tolerance, exact_type=not converted.is_widened)
    comparison.expect_nodes(
        run,
        converted,
        graph.nodes,
        lambda names: dict(zip(names, _run_reference(graph, names, feeds), strict=True)),
        outputs,
    )


def choose_tolerance(theirs: Array) -> float:
    """Chooses the tolerance for a value of ONNX Runtime by its type: a narrow float has few digits."""
    is_narrow = theirs.dtype.itemsize < WIDE and theirs.dtype.kind not in "biu"
    return TOLERANCE_WIDENED if is_narrow else TOLERANCE


@dataclass(frozen=True)
class NodeComparison:
    """Compares each node by itself: a run goes on from each with what ONNX Runtime has computed there.

    Attributes:
        tolerance: That of a whole model for a value of ONNX Runtime. A node has a tenth of it.
        exact_type: Whether the types must be the same.
    """

    tolerance: Callable[[Array], float]
    exact_type: bool

    def expect_nodes(
        self,
        run: Callable[[Follow], object],
        converted: Converted,
        nodes: Sequence[Node],
        reference: Callable[[Sequence[str]], Mapping[str, Array]],
        outputs: Sequence[tuple[str, str]],
    ) -> None:
        """Expects each node to compute what ONNX Runtime computes, and names the first one that does not.

        Args:
            run: Runs the function, and calls what it is given after each of its nodes.
            converted: The function.
            nodes: The ONNX nodes that it was made of.
            reference: Computes values by their names with ONNX Runtime.
            outputs: The outputs that differ, with how they do.

        Raises:
            DivergenceError: A node differs, or an output that no node computes.
        """
        made = {node.meta["value"] for node in converted.module.graph.nodes if "value" in node.meta}
        by_value = {name: node for node in nodes for name in node.outputs if name in made}
        wanted, differing = reference(list(by_value)), dict[str, str]()

        def follow(node: fx.Node, result: Any) -> Any:
            name = node.meta.get("value", "")
            if name not in wanted:
                return result
            theirs = wanted[name]
            tolerance = self.tolerance(theirs) / CLOSER
            if found := find_difference(result, theirs, tolerance, exact_type=self.exact_type):
                differing[name] = found
            return torch.from_numpy(np.array(theirs)).to(result.device, result.dtype)

        run(follow)
        for name, node in by_value.items():
            if name in differing:
                raise DivergenceError(node.name, node.op, name, differing[name])
        for name, found in outputs:
            if name not in by_value:  # no node computes it
                raise DivergenceError(name, "Constant", name, found)


def _find_scale(theirs: Array) -> float:
    """The median magnitude of the entries that are finite and not 0; 1 where there is none."""
    b = theirs.astype(np.float64)
    magnitude = np.abs(b[np.isfinite(b) & (b != 0)])
    return float(np.median(magnitude)) if magnitude.size else 1.0


class _Evaluation(fx.Interpreter):
    """Runs a module without gradients, and says at which ONNX node torch failed."""

    def __init__(self, module: fx.GraphModule, follow: Follow = lambda _node, result: result) -> None:
        super().__init__(module)
        self.extra_traceback = False  # the message is our own
        self._follow = follow

    def run(self, *args: Any) -> Any:  # type: ignore[override]
        with torch.no_grad():
            return super().run(*args)

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            name, operator = n.meta.get("onnx", (n.name, str(n.target)))
            raise NotDifferentiableError(operator, name, first_line(error)) from error
        return self._follow(n, result)


def _make_arguments(converted: Converted, feeds: Mapping[str, Array]) -> list[Tensor]:
    device = next((tensor.device for tensor in converted.module.parameters()), torch.device("cpu"))
    return [torch.from_numpy(np.array(feeds[name])).to(device) for name in converted.inputs]


def _run_reference(graph: OnnxGraph, names: Sequence[str], feeds: Feeds) -> Sequence[Array]:
    """Computes values of the model with ONNX Runtime, every node as it stands.

    The fusions of ONNX Runtime are off, because some compute with less precision than the nodes they replace.
    """
    try:
        session = runtime.open_session(_find_source(graph, names), as_written=True, folder=graph.path.parent)
    except Exception as error:
        sentence = runtime.shorten_message(error)
        raise InputError(f"ONNX Runtime cannot load {graph.path} without its fusions: {sentence}.") from error
    results: Sequence[Array] = session.run(list(names), dict(feeds))
    return results


def _find_source(graph: OnnxGraph, names: Sequence[str]) -> Path | bytes:
    """Finds a model that returns these values: the file itself, or a serialised copy with further outputs."""
    if not graph.runs_in_float32 and set(names) <= set(graph.outputs):
        return graph.path
    model = onnx.ModelProto()
    model.CopyFrom(find_executed_model(graph))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    serialised: bytes = model.SerializeToString()
    return serialised
