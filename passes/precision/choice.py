"""Chooses the nodes that stay in float32, each with one sentence that says why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.precision.ranges import Range
from prox24_export.passes.precision.types import LowPrecision, find_places

INTEGERS = {
    kind for kind in ir.DataType if kind.is_integer() and kind is not ir.DataType.BOOL
}  # a mask of truth values is exact in any float type
SAME_VALUES = {"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
DENOMINATORS = {"Div": 1, "Reciprocal": 0, "Log": 0}  # index of the input for whose zero the result is infinite
BODIES = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
SQUARES = "averages squares, as a layer norm does: TensorRT warns that they overflow float16"
# Operators that ONNX defines for a low type and NVIDIA's parser refuses in it, as TensorRT for RTX 1.7.1 says.
NOT_PARSED = {"HardSwish": {"bf16"}, "Mish": {"bf16"}}


@dataclass(frozen=True)
class Float32Choice:
    """The rules by which nodes stay in float32.

    Attributes:
        precision: The low type.
        opset: The opset of the standard operators.
        margin: The factor by which values must stay below the end of the type's range, because calibration sees few
            samples.
        keep: Globs on node names that the user wants in float32.
        linears: Names of the nodes that multiply by a stored weight. Behind them nothing counts as computed from
            indices.
    """

    precision: LowPrecision
    opset: int
    margin: float
    keep: Sequence[str]
    linears: frozenset[str]

    def choose(self, nodes: Sequence[ir.Node], ranges: Mapping[str, Range]) -> dict[str, str]:
        """Chooses the nodes that stay in float32.

        Args:
            nodes: The nodes of the main graph in topological order, each with a name of its own.
            ranges: Ranges of values by name. A value without a range counts as harmless.

        Returns:
            By name of the node, why it stays in float32. Nodes without float32 operands are left out.
        """
        ranges = _spread_ranges(nodes, ranges)
        unsafe = self._unsafe(nodes, ranges)
        indices = self._index_arithmetic(nodes)
        squares = _find_averaged_squares(nodes) if self.precision.name == "fp16" else set()
        kept: dict[str, str] = {}
        for node in nodes:
            if not has_float(node):
                continue
            reason = (
                self._by_name(node)
                or (self._by_index() if node in indices else "")
                or self._by_operator(node)
                or self._by_parser(node)
                or self._by_range(node, unsafe)
                or (SQUARES if node in squares else "")
            )
            if reason:
                kept[str(node.name)] = reason
        return kept

    def _by_name(self, node: ir.Node) -> str:
        glob = next((glob for glob in self.keep if fnmatchcase(str(node.name), glob)), None)
        return f"kept by request ({glob})" if glob is not None else ""

    def _by_operator(self, node: ir.Node) -> str:
        word = self.precision.word
        if any(attribute.type in BODIES for attribute in node.attributes.values()):
            return "its bodies are not converted"
        if node.domain not in ONNX_DOMAINS:
            return f"{node.domain}.{node.op_type} is no ONNX operator: which types it takes is not known"
        found = find_places(node, self.opset, self.precision)
        if found is None:
            return f"{node.op_type} has no ONNX schema in opset {self.opset}"
        reads = [low for low, value in zip(found.inputs, node.inputs, strict=True) if is_float(value)]
        if any(reads) or any(found.outputs):
            return ""
        if not reads:
            return f"the type of what {node.op_type} makes is set by an attribute"
        return f"{node.op_type} is not defined for {word} in opset {self.opset}"

    def _by_parser(self, node: ir.Node) -> str:
        refused = self.precision.name in NOT_PARSED.get(node.op_type, ())
        return f"TensorRT's parser takes no {node.op_type} in {self.precision.word}" if refused else ""

    def _by_range(self, node: ir.Node, unsafe: Mapping[str, str]) -> str:
        values = [value for value in (*node.inputs, *node.outputs) if is_float(value)]
        return next((unsafe[str(value.name)] for value in values if value and str(value.name) in unsafe), "")

    def _by_index(self) -> str:
        digits = 11 if self.precision.name == "fp16" else 8
        return f"computes with integers, such as positions, of which {self.precision.word} holds {digits} bits"

    def _unsafe(self, nodes: Sequence[ir.Node], ranges: Mapping[str, Range]) -> dict[str, str]:
        """By name of the value, why the low type cannot hold it."""
        denominators = {
            str(value.name)
            for node in nodes
            if node.op_type in DENOMINATORS
            if (value := node.inputs[DENOMINATORS[node.op_type]]) is not None
        }
        names = {str(value.name): value for node in nodes for value in (*node.inputs, *node.outputs) if value}
        word, overflows, vanishes = self.precision.word, self.precision.overflows, self.precision.vanishes
        reasons: dict[str, str] = {}
        for name, value in names.items():
            found = ranges.get(name)
            if found is None or not is_float(value):
                continue
            limit = overflows if value.is_initializer() else overflows / self.margin
            what = f"{'constant' if value.is_initializer() else 'value'} {name}"
            if found.largest >= limit:
                end = f"{word} ends at 65504"
                spare = "" if value.is_initializer() else f" and {self.margin:g}× is kept spare"
                reasons[name] = f"{what} reaches {found.largest:.4g}; {end}{spare}"
            elif 0 < found.largest <= vanishes:
                reasons[name] = f"{what} is at most {found.largest:.3g}, which {word} rounds to zero"
            elif found.smallest <= vanishes and name in denominators:
                reasons[name] = f"{what} is divided by and gets as small as {found.smallest:.3g}: zero in {word}"
        return reasons

    def _index_arithmetic(self, nodes: Sequence[ir.Node]) -> set[ir.Node]:
        """Nodes that compute with integers turned into floats, and with constants, and with nothing else."""
        values: set[ir.Value] = set()
        found = set()
        for node in nodes:
            floats = [value for value in node.inputs if is_float(value)]
            starts = node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype in INTEGERS
            goes_on = any(value in values for value in floats) and all(
                value in values or _is_constant(value) for value in floats
            )
            if starts or (goes_on and node.name not in self.linears):
                found.add(node)
                values.update(value for value in node.outputs if is_float(value))
        return found


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32, the type that is converted."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def has_float(node: ir.Node) -> bool:
    """Whether a node reads or computes float32, or may do so in its bodies."""
    operands = any(map(is_float, (*node.inputs, *node.outputs)))
    return operands or any(attribute.type in BODIES for attribute in node.attributes.values())


def _find_averaged_squares(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Finds the squares that are averaged, with the nodes that average them, and the means that a variance is about.

    These are layer norms and root mean squares that are written out.
    """
    found = set()
    for node in nodes:
        square = _find_maker(node, 0) if node.op_type == "ReduceMean" else None
        if square is not None and _is_square(square):
            found |= {square, node}
            difference = _find_maker(square, 0)
            mean = _find_maker(difference, 1) if difference is not None and difference.op_type == "Sub" else None
            found |= {mean} if mean is not None and mean.op_type == "ReduceMean" else set()
    return found


def _find_maker(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    exponent = node.inputs[1] if node.op_type == "Pow" else None
    stored = exponent.const_value if exponent is not None else None
    return stored is not None and stored.size == 1 and float(stored.numpy().item()) == 2.0  # noqa: PLR2004 (a square)


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is stored, or computed from stored values alone."""
    pending, seen = [value], set()
    while pending:
        here = pending.pop()
        if here is None or here in seen or here.is_initializer():
            continue
        seen.add(here)
        producer = here.producer()
        if producer is None:
            return False
        pending.extend(producer.inputs)
    return True


def _spread_ranges(nodes: Sequence[ir.Node], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Gives the range of an operand to the result of a layout operator that was not observed, as behind weights."""
    known = dict(ranges)
    for node in nodes:
        source = node.inputs[0] if node.op_type in SAME_VALUES and node.inputs else None
        if source is not None and str(source.name) in known:
            known.setdefault(str(node.outputs[0].name), known[str(source.name)])
    return known
