"""Functions that stand for more nodes than there can be, or call themselves, are refused at once."""

import onnx
import pytest
from onnx import helper

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.function_calls import MOST_DEPTH, MOST_NODES, expect_bounded_calls

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def function(name: str, *called: str) -> onnx.FunctionProto:
    values = ["x", *(f"v{index}" for index in range(len(called) - 1)), "y"]
    nodes = [
        helper.make_node(operator, [source], [target], domain="" if operator == "Relu" else "own")
        for operator, source, target in zip(called, values, values[1:], strict=False)
    ]
    return helper.make_function("own", name, ["x"], ["y"], nodes, OPSETS)


def model(functions: list[onnx.FunctionProto], first: str) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node(first, ["x"], ["y"], domain="own")
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph([node], "g", [value("x", floats, ["n"])], [value("y", floats, ["n"])])
    return helper.make_model(graph, functions=functions, opset_imports=OPSETS)


def doubled(levels: int) -> onnx.ModelProto:
    chain = [function("F0", "Relu"), *(function(f"F{i}", f"F{i - 1}", f"F{i - 1}") for i in range(1, levels + 1))]
    return model(chain, f"F{levels}")


def test_ordinary_functions_pass() -> None:
    expect_bounded_calls(model([function("F", "Relu", "Relu")], "F"), "m.onnx")
    expect_bounded_calls(doubled(10), "m.onnx")


def test_functions_that_double_at_each_step_are_counted_without_being_followed() -> None:
    nodes = 1 + (2**81 - 2) + 2**80  # the call, those within functions, and the operators at the bottom
    with pytest.raises(InputError, match=rf"m\.onnx stands for {nodes:,} nodes .* at most {MOST_NODES:,}"):
        expect_bounded_calls(doubled(80), "m.onnx")


def test_calls_that_lie_deep_within_each_other_are_refused() -> None:
    chain = [function("F0", "Relu"), *(function(f"F{i}", f"F{i - 1}") for i in range(1, 600))]
    expect_bounded_calls(model(chain[:MOST_DEPTH], f"F{MOST_DEPTH - 1}"), "m.onnx")
    with pytest.raises(InputError, match=rf"m\.onnx has functions that call each other 600 deep.*{MOST_DEPTH}"):
        expect_bounded_calls(model(chain, "F599"), "m.onnx")


@pytest.mark.parametrize("calls", [{"F": "F"}, {"F": "G", "G": "F"}])
def test_a_function_that_calls_itself_is_refused(calls: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"m\.onnx is not a valid ONNX model: its function [FG] calls itself"):
        expect_bounded_calls(model([function(*pair) for pair in calls.items()], "F"), "m.onnx")
