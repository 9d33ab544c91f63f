"""Planted faults in an INT8 file do not pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.check import PrecisionError
from prox24_export.passes.quantise.check import verify_file, verify_outputs
from prox24_export.passes.verify_pattern import PatternError
from tests.graphs import linears, opened
from tests.passes.quantise.quantised import layers, place, quantise


def change(proto: onnx.ModelProto, name: str, edit: Callable[[Array], Array]) -> None:
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)), name))


def fill(array: Array) -> Array:
    return np.ones_like(array)


def read_float(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.name == "first")
    node.input[0] = "x"


def use_uint8(proto: onnx.ModelProto) -> None:
    change(proto, "w_int8", lambda array: array.astype(np.uint8))
    change(proto, "int8_zero_12", lambda array: array.astype(np.uint8))


def use_one_scale(proto: onnx.ModelProto) -> None:
    change(proto, "w_scale", lambda array: array[:1].reshape(()))
    change(proto, "int8_zero_12", lambda array: array[:1].reshape(()))


FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], object], type[Exception], str]] = {
    "three of four": (lambda proto: change(proto, "w_int8", fill), PatternError, "not 2:4"),
    "-128": (
        lambda proto: change(proto, "v_int8", lambda array: np.where(array != 0, -128, 0).astype(np.int8)),
        PrecisionError,
        "holds −128",
    ),
    "zero point": (lambda proto: change(proto, "int8_zero", lambda array: array + np.int8(1)), PrecisionError, "not 0"),
    "negative scale": (lambda proto: change(proto, "x_scale", np.negative), PrecisionError, "not a positive number"),
    "scale of nothing": (lambda proto: change(proto, "w_scale", np.zeros_like), PrecisionError, "not a positive"),
    "one scale": (
        use_one_scale,
        PrecisionError,
        "one scale for each entry of axis 1",
    ),
    "unsigned": (use_uint8, PrecisionError, "uint8"),
    "float activation": (read_float, PrecisionError, "first reads x in float"),
    "old opset": (
        lambda proto: proto.opset_import[0].CopyFrom(helper.make_opsetid("", 12)),
        PrecisionError,
        "opset 12",
    ),
    "output renamed": (
        lambda proto: setattr(proto.graph.output[0], "name", "d"),
        PrecisionError,
        "the outputs were",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(tmp_path: Path, name: str) -> None:
    source = opened(layers(), tmp_path / "source")
    places, pruned = place(layers(), tmp_path / "placed"), linears(source)
    _, graph = quantise(layers(), tmp_path / "int8")
    assert len(verify_file(source, graph, places, pruned)) == 2
    plant, error, said = FAULTS[name]
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    plant(proto)
    with pytest.raises(error, match=said):
        verify_file(source, OnnxGraph(graph.path, proto), places, pruned)


def test_an_output_that_becomes_infinite_is_found() -> None:
    sound, broken = np.ones(3, np.float32), np.array([1, np.inf, 1], np.float32)
    verify_outputs([{"y": broken}], [{"y": broken}])
    with pytest.raises(PrecisionError, match="1 entries of output y are NaN or Inf in INT8"):
        verify_outputs([{"y": sound}], [{"y": broken}])
