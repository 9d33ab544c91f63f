"""A small network and its conversion, which several tests of the precisions share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.precision.lower import Lowered, LowerPrecision
from tests.graphs import linears, model, normal, opened, rewritten

FP16, BF16_PASS = LowerPrecision(), LowerPrecision("bf16")
CLOSE = {"fp16": 4e-3, "bf16": 3e-2}  # a few roundings of 2⁻¹¹ and 2⁻⁸


def lower(
    proto: onnx.ModelProto, folder: Path, feeds: Sequence[Mapping[str, Array]], settings: LowerPrecision = FP16
) -> tuple[Lowered, OnnxGraph]:
    """A model written, pruned by magnitude, converted with its layers verified, and read again."""
    graph = opened(proto, folder)
    path = rewritten(graph, folder / "sparse")
    before = path.read_bytes()
    lowered = settings.call(
        source=path, target=folder / f"low.{settings.precision}.onnx", feeds=list(feeds), linears=linears(graph)
    )
    assert path.read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["dense.onnx", lowered.path.name, "sparse"]
    written = OnnxGraph(lowered.path)
    onnx.checker.check_model(written.proto, full_check=settings.precision == "fp16")
    return lowered, written


def types(graph: OnnxGraph) -> dict[str, str]:
    """Type of every stored float tensor by name."""
    words = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
    return {t.name: words[t.data_type] for t in graph.proto.graph.initializer if t.data_type in words}


X = {"x": normal(5, 8)}
TWO = """g (float[n,8] x) => (float[n,4] y) { [first] a = MatMul(x, u) b = Add(a, c) d = Relu(b) [second] y =
    MatMul(d, v) }"""
TWO_WEIGHTS = {"u": normal(8, 16), "v": normal(16, 4, seed=1), "c": normal(16)}


def converted(folder: Path) -> tuple[OnnxGraph, OnnxGraph]:
    """The source with its layers, and a sound float16 file."""
    _, graph = lower(model(TWO, TWO_WEIGHTS), folder, [X])
    return OnnxGraph(folder / "dense.onnx"), graph


def with_cast(proto: onnx.ModelProto) -> None:
    """What a converter that leaves large weights alone writes: float32, cast when the model runs."""
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "u")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), "u"))
    proto.graph.node.insert(0, helper.make_node("Cast", ["u"], ["u16"], to=TensorProto.FLOAT16))
    next(node for node in proto.graph.node if node.name == "first").input[1] = "u16"
