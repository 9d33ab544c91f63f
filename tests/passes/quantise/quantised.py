"""Small networks and their INT8 files, which several tests of the quantisation share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.quantise.placement import Placement, PlacementSearch
from prox24_export.passes.quantise.prepare import prepare_copy
from prox24_export.passes.quantise.quantise import Quantised, QuantiseModel
from tests.graphs import linears, model, normal, opened, rewritten

LAYERS = """g (float[N,16] x) => (float[N,8] y)
  { [first] a = MatMul(x, w) b = Add(a, c) d = Relu(b) [second] y = Gemm<transB = 1>(d, v, e) }"""
WEIGHTS = {"w": normal(16, 12), "c": normal(12), "v": normal(8, 12), "e": normal(8)}
FEEDS = [{"x": normal(32, 16, seed=seed)} for seed in range(4)]


def layers() -> onnx.ModelProto:
    """Two layers with bias and ReLU between them."""
    return model(LAYERS, WEIGHTS)


def quantise(
    proto: onnx.ModelProto,
    folder: Path,
    feeds: Sequence[Mapping[str, Array]] = FEEDS,
    settings: QuantiseModel | None = None,
    **more: Any,
) -> tuple[Quantised, OnnxGraph]:
    """A model written, pruned by magnitude, quantised with its layers verified, and read again."""
    graph = opened(proto, folder)
    path = rewritten(graph, folder / "sparse")
    before = path.read_bytes()
    done = (settings or QuantiseModel()).call(
        source=path, target=folder / "int8.onnx", feeds=list(feeds), linears=linears(graph), **more
    )
    assert path.read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["dense.onnx", "int8.onnx", "sparse"]
    written = OnnxGraph(done.path)
    onnx.checker.check_model(written.proto, full_check=True)
    return done, written


def place(proto: onnx.ModelProto, folder: Path, **more: Mapping[str, str]) -> Placement:
    """Where quantisers stand in a model."""
    source = opened(proto, folder)
    graph = OnnxGraph(source.path, prepare_copy(source)[0])
    nodes = {str(node.name): node for node in ir.from_proto(graph.proto).graph}
    return PlacementSearch(nodes, graph.operators(), graph.constants, **more).find()


def fake_quantise(array: Array, scale: Array | float) -> Array:
    """Rounds to symmetric integers and back, by its own line of numpy."""
    return (np.clip(np.rint(array / np.float32(scale)), -128, 127) * scale).astype(np.float32)
