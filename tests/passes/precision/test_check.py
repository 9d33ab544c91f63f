"""The check of a lowered file finds what a converter may get wrong."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.precision.check import PrecisionError, measure_differences, verify_interface, verify_lowered
from prox24_export.passes.precision.ranges import observe
from prox24_export.passes.precision.types import PRECISIONS
from prox24_export.passes.verify_pattern import PatternError
from tests.graphs import (
    linears,
    model,
    opened,
    rewritten,
    run,
    save,
)
from tests.passes.precision.lowered import TWO, TWO_WEIGHTS, X, converted, with_cast


def test_a_float32_weight_behind_a_cast_is_found(tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    assert len(verify_lowered(graph, linears(source), PRECISIONS["fp16"], {})) == 2
    proto = onnx.load(graph.path)
    with_cast(proto)
    broken = opened(proto, tmp_path / "broken")
    run(broken.path, X)
    with pytest.raises(PrecisionError, match="weight u at node first is stored as float32, behind a Cast"):
        verify_lowered(broken, linears(source), PRECISIONS["fp16"], {})


def test_a_weight_left_in_float32_without_a_reason_is_found(tmp_path: Path) -> None:
    source = OnnxGraph(save(model(TWO, TWO_WEIGHTS), tmp_path))
    sparse = OnnxGraph(rewritten(source, tmp_path))
    with pytest.raises(PrecisionError, match="weight u at node first is stored as float32, directly"):
        verify_lowered(sparse, linears(source), PRECISIONS["fp16"], {})
    assert len(verify_lowered(sparse, linears(source), PRECISIONS["fp16"], {"first": "why", "second": "why"})) == 2


def test_a_third_survivor_is_found(tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    proto = onnx.load(graph.path)
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "v")
    weight.CopyFrom(numpy_helper.from_array(np.ones((16, 4), np.float16), "v"))
    with pytest.raises(PatternError, match="weight v at node second: 16 of 16 groups are not 2:4"):
        verify_lowered(opened(proto, tmp_path / "broken"), linears(source), PRECISIONS["fp16"], {})


@pytest.mark.parametrize("side", ["input", "output"])
def test_another_interface_is_found(side: str, tmp_path: Path) -> None:
    source, graph = converted(tmp_path)
    proto = onnx.load(graph.path)
    getattr(proto.graph, side)[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(PrecisionError, match=f"the {side}s were"):
        verify_interface(source.proto, proto)


def test_differences_are_of_the_whole_output(tmp_path: Path) -> None:
    text = "g (float[n,8] x) => (float[n,8] y) { y = Mul(x, k) }"
    seen = {
        k: observe(opened(model(text, {"k": np.array(k, np.float32)}), tmp_path / str(k)), [X, X])
        for k in (1.0, 1.5, np.inf)
    }
    assert measure_differences(seen[1.0], seen[1.5])["y"] == pytest.approx(0.5)
    assert measure_differences(seen[1.0], seen[1.0])["y"] == 0
    assert measure_differences(seen[1.0], seen[np.inf])["y"] == np.inf
