"""What functions hold is found once for each, however often they are called."""

import time
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from prox24_export import inspect
from prox24_export.passes.front_onnx.dependencies import find_functions, is_random
from prox24_export.passes.graph.protocol import Reason, Skipped
from tests.graphs import model, normal, save

OPSETS = 'opset_import: ["" : 17, "own" : 1]'


def calling(levels: int, bottom: str) -> onnx.ModelProto:
    """A model that calls a function, which calls another one twice, and so on down to an operator."""
    proto = model(
        f"g (float[N,8] x) => (float[N,8] y) {{ y = own.f{levels}(x, w) }}", {"w": normal(8, 8)}, more=', "own" : 1'
    )
    bodies = [f"r = {bottom}", *(f"a = own.f{level}(x, w) r = own.f{level}(a, w)" for level in range(levels))]
    proto.functions.extend(
        onnx.parser.parse_function(f'<domain: "own", {OPSETS}> f{level} (x, w) => (r) {{ {body} }}')
        for level, body in enumerate(bodies)
    )
    return proto


@pytest.mark.parametrize("bottom", ["Relu(x)", "RandomNormalLike(x)"])
def test_functions_that_double_at_each_step_are_looked_at_once(bottom: str, tmp_path: Path) -> None:
    path = save(calling(18, bottom), tmp_path)
    began = time.process_time()
    assert inspect(path) == []
    assert time.process_time() - began < 3


def test_what_a_function_holds_is_found_through_those_that_it_calls(tmp_path: Path) -> None:
    drawing, plain = (ir.from_proto(calling(3, bottom)) for bottom in ("RandomNormalLike(x)", "Relu(x)"))
    assert {name for _, name, _ in find_functions(drawing, lambda node: node.op_type == "RandomNormalLike")} == {
        *("f0", "f1", "f2", "f3")
    }
    assert is_random(drawing.graph[0], drawing)
    assert not is_random(plain.graph[0], plain)
    (layer,) = inspect(save(calling(3, "MatMul(x, w)"), tmp_path))[:1]
    assert isinstance(layer, Skipped)
    assert layer.reason is Reason.IN_FUNCTION
