"""The limits of float16 and bfloat16, and the operands that may have these types by the schemas of ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS
from prox24_export.passes.graph.arrays import Array, as_numpy_dtype, find_largest_value

LowPrecisionName = Literal["fp16", "bf16"]


@dataclass(frozen=True)
class LowPrecision:
    """A type with fewer bits than float32.

    Attributes:
        name: The name that the user gives.
        word: The name in ONNX, NumPy and `Linear.dtype`.
        dtype: The type in onnx_ir.
        overflows: Smallest magnitude that rounds to infinity; inf where float32 has the same range.
        vanishes: Largest magnitude that rounds to zero; 0 where float32 has the same range.
    """

    name: LowPrecisionName
    word: str
    dtype: ir.DataType
    overflows: float
    vanishes: float

    def of(self, array: Array) -> Array:
        """Converts an array to this type. Finite numbers stay finite, and zeros become +0.0.

        Only bfloat16 meets a finite number that it would round to infinity: the last of float32's range.
        """
        return round_to(array, self.word)


PRECISIONS: dict[str, LowPrecision] = {
    "fp16": LowPrecision("fp16", "float16", ir.DataType.FLOAT16, 65520.0, 2.0**-25),
    "bf16": LowPrecision("bf16", "bfloat16", ir.DataType.BFLOAT16, np.inf, 0.0),
}


def round_to(array: Array, word: str) -> Array:
    """Rounds an array to the float type `word`. Finite numbers stay finite, and zeros become +0.0."""
    dtype: np.dtype[Any] = as_numpy_dtype(word)
    end = find_largest_value(word)
    wide = np.where(np.isfinite(array), np.clip(array, -end, end), array) if dtype.itemsize < array.itemsize else array
    cast = np.ascontiguousarray(wide).astype(dtype)
    cast[cast == 0] = 0
    return cast


@dataclass(frozen=True)
class Places:
    """The operands and results of a node that may have the low type. A float one that may not stays float32.

    Attributes:
        inputs: For each input, whether it may have the low type.
        outputs: For each output, whether it may have the low type.
    """

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def find_places(node: ir.Node, opset: int, precision: LowPrecision) -> Places | None:
    """Finds the places of the low type by the schema of the node's operator in `opset`; None where there is none.

    An output may have the low type where its type follows from an input. Only a `Cast` has an attribute for its type,
    which can be changed.
    """
    schema = find_schema(node.op_type, opset) if node.domain in ONNX_DOMAINS else None
    if schema is None:
        return None
    wanted = f"tensor({precision.word})"
    allowed = {entry.type_param_str: wanted in entry.allowed_type_strs for entry in schema.type_constraints}
    formal_inputs = [_find_formal_type(schema.inputs, index) for index in range(len(node.inputs))]
    formal_outputs = [_find_formal_type(schema.outputs, index) for index in range(len(node.outputs))]
    given = {
        kind
        for kind, value in zip(formal_inputs, node.inputs, strict=True)
        if value is not None and value.dtype in {ir.DataType.FLOAT, precision.dtype}
    }
    if node.op_type == "Cast":
        given.update(formal_outputs)
    return Places(
        tuple(allowed.get(kind, False) for kind in formal_inputs),
        tuple(allowed.get(kind, False) and kind in given for kind in formal_outputs),
    )


def find_schema(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """Finds the schema of a standard operator in an opset; None where there is none."""
    for domain in ("", "ai.onnx.ml"):
        if onnx.defs.has(op, domain=domain):
            try:
                return onnx.defs.get_schema(op, opset if not domain else onnx.defs.onnx_ml_opset_version(), domain)
            except onnx.defs.SchemaError:
                return None
    return None


def find_first_opset(op: str, precision: LowPrecision) -> int | None:
    """Finds the first opset in which the first input of an operator may have the low type; None where there is none."""
    for opset in range(1, onnx.defs.onnx_opset_version() + 1):
        schema = find_schema(op, opset)
        if schema is None:
            continue
        first = schema.inputs[0].type_str
        if any(
            entry.type_param_str == first and f"tensor({precision.word})" in entry.allowed_type_strs
            for entry in schema.type_constraints
        ):
            return opset
    return None


def _find_formal_type(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """Finds the formal type of an operand. The last formal parameter stands for all that follow (Concat, Max)."""
    return str(parameters[min(index, len(parameters) - 1)].type_str) if parameters else ""
