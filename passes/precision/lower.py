"""Converts float32 ONNX files to float16 or bfloat16, because TensorRT no longer does it by a flag of the builder.

TensorRT 11 takes the types of the file, as TensorRT 10 does with STRONGLY_TYPED: an engine computes in the types of its
ONNX file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import onnx.inliner
import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx import linear_operators, runtime
from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.front_onnx.external_data import load_tensors, open_model
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.tensors import has_external
from prox24_export.passes.graph.arrays import EXTERNAL_ABOVE, as_numpy_dtype
from prox24_export.passes.graph.protocol import Candidate, Feeds, Linear
from prox24_export.passes.precision.autocast import convert_by_autocast
from prox24_export.passes.precision.check import measure_differences, verify_finite, verify_interface, verify_lowered
from prox24_export.passes.precision.choice import Float32Choice, has_float
from prox24_export.passes.precision.convert import convert_graph, hoist_constants
from prox24_export.passes.precision.quantised import is_quantised, verify_quantised
from prox24_export.passes.precision.ranges import Range, measure_range, observe
from prox24_export.passes.precision.types import PRECISIONS, LowPrecision, LowPrecisionName, find_first_opset
from prox24_export.passes.precision.written_files import (
    copy_model,
    count_stored_bytes,
    expect_other_file,
    save_model,
    write_whole,
)
from prox24_export.passes.verify_pattern import VerifiedUse, VerifyPattern

MULTIPLY = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # the opset is raised so that these may have the low type
LOW = {"float16", "bfloat16"}


@dataclass(frozen=True)
class Lowered:
    """A converted file.

    Attributes:
        path: The file.
        kept_in_fp32: By name of the node, why it computes in float32, in one sentence.
        differences: By name of the float output, `‖low − float32‖ / ‖float32‖` over the feeds, with every value rounded
            to its type.
        verified: Every use of a pruned weight that was checked in the file.
        notes: What the user should know, one sentence each.
        converted: Whether anything changed. It is False where the model was copied as it was.
    """

    path: Path
    kept_in_fp32: Mapping[str, str]
    differences: Mapping[str, float]
    verified: tuple[VerifiedUse, ...]
    notes: tuple[str, ...] = ()
    converted: bool = True


@dataclass(frozen=True)
class LowerPrecision:
    """The pass that converts a file to a lower precision, and its settings.

    Attributes:
        precision: The low type.
        margin: A node stays in float32 where a value is closer to the end of the type's range than this factor, because
            calibration sees few samples.
        keep: Globs on names of nodes that stay in float32 in any case.
        converter: `own`, or NVIDIA's `autocast`, which needs modelopt and chooses nodes by its own rules.
        external_above: Size of the tensors in bytes above which they go to a file beside the model. They also go there
            where the source holds external data.
    """

    precision: LowPrecisionName = "fp16"
    margin: float = 4.0
    keep: tuple[str, ...] = ()
    converter: Literal["own", "autocast"] = "own"
    external_above: int = EXTERNAL_ABOVE

    def call(self, *, source: Path, target: Path, feeds: Sequence[Feeds], linears: Sequence[Linear] = ()) -> Lowered:
        """Writes `source` in the low type to `target`, which appears whole or not at all. `source` is never changed.

        A model whose weights are float16 or bfloat16 already, or which is quantised, is copied. Inputs and outputs keep
        their types.

        Args:
            source: The ONNX file to convert.
            target: The file to write. Large tensors go to a file beside it, named `target` with `.data` behind it.
            feeds: Calibration batches. Ranges of values are taken from them, and outputs are compared on them.
                Without any, only weights decide what stays in float32, and nothing is compared.
            linears: The pruned layers of `source`, which are verified in `target`.

        Raises:
            InputError: The model is unreadable, does not run on the feeds, or cannot be converted.
            UnavailableError: autocast was asked for and is not installed.
            PatternError: A pruned weight is not 2:4 in the new file.
            PrecisionError: A value that was finite is NaN or Inf, a weight is not stored in the low type, or an input
                or output has another type.
            OSError: The target cannot be written.
        """
        self.requires(source, target)
        graph = OnnxGraph(source)
        with write_whole(target) as file:
            why = _explain_copy(graph, PRECISIONS[self.precision])
            lowered = self._copied(graph, file, linears, why) if why else self._converted(graph, file, feeds, linears)
        return replace(lowered, path=target)

    @staticmethod
    def requires(source: Path, target: Path) -> None:
        """Expects the target to be another file than the source.

        Raises:
            InputError: Both are the same file.
        """
        expect_other_file(source, target)

    def _copied(self, graph: OnnxGraph, file: Path, linears: Sequence[Linear], why: str) -> Lowered:
        copy_model(graph, file)
        written = OnnxGraph(file)
        if is_quantised(written):  # its weights may be integers, and then have other names
            verified = verify_quantised(written, [use.node for linear in linears for use in linear.uses])
        else:
            verified = VerifyPattern().call(graph=written, linears=linears).uses
        return Lowered(file, {}, {}, verified, (why,), converted=False)

    def _converted(self, graph: OnnxGraph, file: Path, feeds: Sequence[Feeds], linears: Sequence[Linear]) -> Lowered:
        precision = PRECISIONS[self.precision]
        before = observe(graph, feeds)
        if self.converter == "autocast":
            model = ir.from_proto(convert_by_autocast(graph.path, self.precision, feeds))
            notes: list[str] = []
            kept = _find_left_in_float32(model)
        else:
            model, notes = _prepare(graph, precision, before.ranges)
            kept = self._convert(graph, model, precision, before.ranges)
        external = count_stored_bytes(model) > self.external_above or has_external(graph.proto)
        save_model(model, file, external=external)
        written = OnnxGraph(file)
        verify_interface(graph.proto, written.proto)
        verified = verify_lowered(written, linears, precision, kept)
        after = observe(written, feeds, rounded=True)
        verify_finite(written, after, before)
        if not feeds:
            notes.append(
                "there is no calibration data: only the ranges of weights were checked, and no output was compared"
            )
        elif written.runs_in_float32:
            notes.append(
                "outputs were compared on a float32 copy whose nodes run one by one with every value rounded, because "
                "ONNX Runtime has no kernels for the type on this machine"
            )
        return Lowered(file, kept, measure_differences(before, after), verified, tuple(notes))

    def _convert(
        self, graph: OnnxGraph, model: ir.Model, precision: LowPrecision, before: Mapping[str, Range]
    ) -> dict[str, str]:
        stored = {
            name: measure_range(value.const_value.numpy())
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and value.dtype == ir.DataType.FLOAT
        }
        linears = frozenset(found.use.node for found in graph.operators() if isinstance(found, Candidate))
        opset = model.opset_imports[""]
        choice = Float32Choice(precision, opset, self.margin, self.keep, linears)
        kept = choice.choose(list(model.graph), {**before, **stored})
        convert_graph(model, precision, kept, opset)
        return kept


def _explain_copy(graph: OnnxGraph, precision: LowPrecision) -> str:
    """Explains why a model is copied as it is; empty where it is converted."""
    if is_quantised(graph):
        return "the model is quantised (QuantizeLinear, DequantizeLinear) and was left as it is"
    weights = [found for found in graph.operators() if isinstance(found, Candidate)]
    types = {"cast" if math.isfinite(found.limit) else found.dtype for found in weights}
    if not types or not types <= LOW:
        return ""
    words = " and ".join(sorted(types))
    asked = "" if types == {precision.word} else f" {precision.word} was asked for."
    return f"the weights are {words} already, and the model was left as it is.{asked}".rstrip(".")


def _prepare(graph: OnnxGraph, precision: LowPrecision, ranges: Mapping[str, Range]) -> tuple[ir.Model, list[str]]:
    """Prepares a copy for conversion: nodes have unique names, values have types, and no functions are left.

    Its opset is one in which products may be of the low type.

    Returns:
        The copy, and notes for the user.
    """
    if graph.proto.graph.sparse_initializer:
        raise InputError(f"{graph.path} holds sparse initializers, which cannot be converted. Store them densely.")
    named = ir.from_proto(graph.proto)
    for node, name in linear_operators.name_nodes(named).items():
        node.name = name
    proto = ir.to_proto(named)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    proto, notes = _raise_opset(proto, precision, graph.path)
    try:
        proto = onnx.shape_inference.infer_shapes(proto)
    except Exception as error:
        raise InputError(f"types of {graph.path} cannot be inferred: {runtime.shorten_message(error)}.") from error
    model = open_model(proto, graph.path)
    model.ir_version = max(model.ir_version or 0, 4)  # before, every initializer was an input too
    for node, name in linear_operators.name_nodes(model).items():
        node.name = name
    _fill_types(graph, model, ranges)
    hoist_constants(model)
    return model, notes


def _raise_opset(proto: onnx.ModelProto, precision: LowPrecision, path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """Raises a model to the first opset in which its products may be of the low type, with a note where it changes."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS), 1)
    used = {node.op_type for node in proto.graph.node} & set(MULTIPLY)
    needed = {op: find_first_opset(op, precision) or 0 for op in used}
    late = max(needed, key=lambda op: needed[op], default="")
    if not late or needed[late] <= opset:
        return proto, []
    loaded = onnx.ModelProto()
    loaded.CopyFrom(proto)
    try:
        load_tensors(loaded, path)
        raised = onnx.version_converter.convert_version(loaded, needed[late])
    except Exception as error:
        raise InputError(
            f"{path} has opset {opset}, {precision.word} {late} needs {needed[late]}, and onnx cannot raise it: "
            f"{runtime.shorten_message(error)}. Export the model with that opset, or use fp16."
        ) from error
    return raised, [f"opset raised from {opset} to {needed[late]}: {precision.word} {late} needs it"]


def _fill_types(graph: OnnxGraph, model: ir.Model, ranges: Mapping[str, Range]) -> None:
    """Fills in types that inference does not know, as behind vendor operators, with those that were observed."""
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and str(value.name) in ranges and not graph.runs_in_float32:
                kind = onnx.helper.np_dtype_to_tensor_dtype(as_numpy_dtype(ranges[str(value.name)].dtype))
                value.type = ir.TensorType(ir.DataType(kind))
            if value.name and value.type is None:
                raise InputError(
                    f"the type of {value.name}, which node {node.name} ({node.op_type}) of {graph.path} makes, is not "
                    "known. Give calibration data, so that it can be seen."
                )
            if isinstance(value.type, (ir.SequenceType, ir.OptionalType)):
                raise InputError(
                    f"{value.name} of {graph.path} is a sequence or optional: such models cannot be converted to a "
                    "lower precision. Use --precision fp32."
                )


def _find_left_in_float32(model: ir.Model) -> dict[str, str]:
    """Finds the nodes of another converter's result that read or compute float32, by name with a reason."""
    return {
        str(node.name): "left in float32 by modelopt's autocast"
        for node in model.graph
        if node.op_type != "Cast" and has_float(node)
    }
