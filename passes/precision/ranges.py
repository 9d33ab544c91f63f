"""Runs a model, a few nodes at a time, and measures how large and how small every value gets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import PIECE, Array
from prox24_export.passes.graph.protocol import Feeds, Node
from prox24_export.passes.precision.types import round_to

BYTES_AT_ONCE = 1_000_000_000  # most bytes of weights of nodes that run together, at 8 an entry: protobuf ends at 2 GiB
AT_ONCE = 32  # most nodes that run together; all their values are in memory


@dataclass(frozen=True)
class Range:
    """The range of a value.

    Attributes:
        largest: Largest finite magnitude.
        smallest: Smallest finite magnitude that is not zero; inf where there is none.
        finite: Whether the value holds neither NaN nor Inf.
        dtype: The type in which the value was computed.
    """

    largest: float
    smallest: float
    finite: bool
    dtype: str

    def __or__(self, other: "Range") -> "Range":
        """The range of both values together."""
        return Range(
            max(self.largest, other.largest),
            min(self.smallest, other.smallest),
            self.finite and other.finite,
            self.dtype,
        )


def measure_range(array: Array) -> Range:
    """Measures the range of an array. Integers and booleans have the range of an empty array of floats."""
    if array.dtype.kind not in "fV":  # V: bfloat16 is a void type to NumPy
        return Range(0.0, np.inf, finite=True, dtype=array.dtype.name)
    largest, smallest, finite = 0.0, np.inf, True
    for piece in np.array_split(array.reshape(-1), max(1, array.size // PIECE)):
        magnitude = np.abs(piece.astype(np.float64))
        sound = np.isfinite(magnitude)
        finite = finite and bool(sound.all())
        magnitude = magnitude[sound & (magnitude > 0)]
        largest = max(largest, float(magnitude.max(initial=0.0)))
        smallest = min(smallest, float(magnitude.min(initial=np.inf)))
    return Range(largest, smallest, finite, array.dtype.name)


@dataclass(frozen=True)
class ObservedValues:
    """What was observed in a model.

    Attributes:
        ranges: The range of every value of the main graph over all feeds, by name in topological order. Empty where
            there are no feeds.
        outputs: For each batch of feeds, the outputs by name. Outputs that are constants or inputs are left out.
        masks: Names of the inputs that hold an infinity, as additive masks do.
    """

    ranges: Mapping[str, Range]
    outputs: Sequence[Mapping[str, Array]]
    masks: frozenset[str] = frozenset()


def observe(graph: OnnxGraph, feeds: Sequence[Feeds], *, rounded: bool = False) -> ObservedValues:
    """Runs the model once on every batch. A value stays in memory until its last reader has run.

    Args:
        graph: The model.
        feeds: Batches of arrays by name of the input.
        rounded: Whether every node runs alone and its results are rounded to the type that the file gives them, as on
            hardware with these types. Otherwise, where the CPU has no kernels for a type, ONNX Runtime computes in
            float32 and leaves out casts between two such nodes, and bfloat16 runs as float32. Sums inside a node are
            float32 in both cases.

    Raises:
        InputError: The model cannot be run on the feeds, or a value is a sequence.
    """
    seen: dict[str, Range] = {}
    if not feeds:
        return ObservedValues(seen, [])
    inputs = {entry.name for entry in graph.inputs}
    frontier = [{name: value for name, value in feed.items() if name in inputs} for feed in feeds]
    narrow = _find_bfloat16_values(graph) if rounded else frozenset()
    for part, later in split_into_parts(graph, 1 if rounded else AT_ONCE):
        fetches = _find_fetches(graph, part, seen)
        with explain_failed_run(graph, part[0]):
            run = graph.compile(part, frontier[0], fetches, {})
            results = [run(values) for values in frontier]
        for values, fetched in zip(frontier, results, strict=True):
            for name, value in fetched.items():
                _expect_tensor(name, value)
                if name in narrow:
                    fetched[name] = round_to(value, "bfloat16").astype(value.dtype)
                seen[name] = seen[name] | measure_range(fetched[name]) if name in seen else measure_range(fetched[name])
            values.update(fetched)
            for name in set(values) - later - set(graph.outputs):
                del values[name]
    computed = [name for name in graph.outputs if name in seen]
    masks = frozenset(name for feed in feeds for name in inputs & feed.keys() if not measure_range(feed[name]).finite)
    return ObservedValues(seen, [{name: values[name] for name in computed} for values in frontier], masks)


def _find_bfloat16_values(graph: OnnxGraph) -> frozenset[str]:
    """Finds the values that a float32 copy computes too exactly. Those of float16 are rounded when they are fetched."""
    if "bfloat16" not in graph.runs_in_float32:
        return frozenset()
    known = onnx.shape_inference.infer_shapes(graph.proto).graph
    bfloat16 = onnx.TensorProto.BFLOAT16
    values = (*known.value_info, *known.output)
    return frozenset(value.name for value in values if value.type.tensor_type.elem_type == bfloat16)


@contextmanager
def explain_failed_run(graph: OnnxGraph, first: Node) -> Iterator[None]:
    """Turns what the runtime says of nodes that it cannot run, the first of them given, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{graph.path} cannot be run from node {first.name} on: {runtime.shorten_message(error)}. "
            "Expected calibration data that fit the model."
        ) from error


def split_into_parts(graph: OnnxGraph, at_once: int) -> Iterator[tuple[Sequence[Node], set[str]]]:
    """Yields runs of consecutive nodes, with the names of the values that later nodes read.

    The weights of each run are limited, because it becomes one protobuf.
    """
    sizes = {tensor.name: 8 * math.prod(tensor.dims) for tensor in graph.proto.graph.initializer}
    parts: list[list[Node]] = []
    held = 0
    for node in graph.nodes:
        size = sum(sizes.get(name, 0) for name in node.inputs)
        if not parts or len(parts[-1]) == at_once or held + size > BYTES_AT_ONCE:
            parts.append([])
            held = 0
        parts[-1].append(node)
        held += size
    later: list[set[str]] = [set()]
    for part in reversed(parts):
        later.append(later[-1] | {name for node in part for name in node.inputs})
    yield from zip(parts, reversed(later[:-1]), strict=True)


def _find_fetches(graph: OnnxGraph, part: Sequence[Node], seen: dict[str, Range]) -> list[str]:
    """Finds the names of the values that the nodes compute, and of the computed constants that they read."""
    stored = {tensor.name for tensor in graph.proto.graph.initializer}
    outputs = [name for node in part for name in node.outputs]
    read = [name for node in part for name in node.inputs if name in graph.constants - stored and name not in seen]
    return list(dict.fromkeys([*outputs, *read]))


def _expect_tensor(name: str, value: object) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"value {name!r} is a {type(value).__name__}, not a tensor: models with sequences or optionals cannot be "
            "converted to a lower precision. Use --precision fp32."
        )
