"""The steps that a graph becomes: calls of functions on values. Finds the values that a gradient reaches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prox24_export.passes.onnx_to_fx.table import NEWEST_OPSET, Operator, look_up

PAIR = "QuantizeLinear+DequantizeLinear"


@dataclass(frozen=True)
class GraphStep:
    """One call of a function.

    Attributes:
        node: Name of the ONNX node.
        op: Its operator.
        operator: The entry of the table that holds the function.
        inputs: Names of the values it takes, in order; None for one that is left out.
        outputs: Names of the values it returns, in order; empty for one that is left out.
        keywords: The keyword arguments of the call.
    """

    node: str
    op: str
    operator: Operator
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    keywords: Mapping[str, Any]

    @property
    def differentiable(self) -> Iterator[str]:
        """Yields the names of the inputs that a gradient reaches."""
        kind = self.keywords.get("to")
        if self.operator.detached or (kind is not None and not kind.is_floating_point):
            return
        stopped = self.operator.fixed | self.operator.literals
        yield from (name for place, name in enumerate(self.inputs) if name is not None and place not in stopped)


def pair_quantisation(steps: Sequence[GraphStep], outputs: Sequence[str]) -> list[GraphStep]:
    """Joins each DequantizeLinear with the QuantizeLinear before it to one step, so that gradients pass.

    Args:
        steps: The steps in topological order.
        outputs: Names of the graph's outputs.

    Returns:
        The steps in the same order, without each QuantizeLinear that nothing else reads.
    """
    pair = look_up(PAIR, NEWEST_OPSET)
    producers = {step.outputs[0]: step for step in steps if step.op == "QuantizeLinear"}
    result = []
    for step in steps:
        before = producers.get(step.inputs[0] or "") if step.op == "DequantizeLinear" else None
        if before is None or pair is None:
            result.append(step)
            continue
        first = (*before.inputs, None)[:3]
        axes = {"axis": before.keywords.get("axis", 1), "axis_back": step.keywords.get("axis", 1)}
        keywords = {**before.keywords, **axes}
        result.append(replace(step, operator=pair, inputs=(*first, *step.inputs[1:]), keywords=keywords))
    read = {name for step in result for name in step.inputs}.union(outputs)
    return [step for step in result if step.op != "QuantizeLinear" or not read.isdisjoint(step.outputs)]


def find_reached(steps: Sequence[GraphStep], outputs: Sequence[str]) -> set[str]:
    """Finds the names of the values that a gradient of the outputs reaches; `steps` are in topological order."""
    reached = set(outputs)
    for step in reversed(steps):
        if not reached.isdisjoint(step.outputs):
            reached.update(step.differentiable)
    return reached


def find_taken_as_tensors(steps: Sequence[GraphStep], outputs: Sequence[str]) -> set[str]:
    """Finds the names of the values that are outputs, or that no step takes as Python numbers."""
    places = [(name, place in step.operator.literals) for step in steps for place, name in enumerate(step.inputs)]
    numbers = {name for name, is_literal in places if is_literal}
    return {name for name, _ in places if name is not None and name not in numbers}.union(outputs)
