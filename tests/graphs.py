"""Small models as ONNX text, and the shortest ways to open, run, prune and read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import torch
from polygraphy.tools.sparse import SparsityPruner

from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import Stage, schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_onnx.rewrite_weights import RewriteWeights
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Linear, Skipped, TracedGraph
from prox24_export.solver.pattern import two_four_mask

if TYPE_CHECKING:
    from prox24_export.passes.calibrate.moments import Observation

BF16 = np.dtype(ml_dtypes.bfloat16)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Seeded normal numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def model(
    graph: str, weights: Mapping[str, Array] | None = None, *, opset: int = 17, ir: int = 8, more: str = ""
) -> onnx.ModelProto:
    """`graph` in ONNX text, `weights` as initializers; `more` holds further opset imports and functions' domains."""
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{more}]> {graph}')
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def save(proto: onnx.ModelProto, folder: Path, name: str = "dense.onnx") -> Path:
    """Writes a model; the folder is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def opened(proto: onnx.ModelProto, folder: Path) -> OnnxGraph:
    """A model written and read again."""
    return OnnxGraph(save(proto, folder))


def run(source: onnx.ModelProto | Path, feeds: Mapping[str, Array]) -> list[Array]:
    """ONNX Runtime's outputs, every node executed as it stands."""
    given = str(source) if isinstance(source, Path) else source.SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def found(graph: TracedGraph, **settings: tuple[str, ...]) -> list[Linear | Skipped]:
    """What `find_linears` says."""
    return list(FindLinears(**settings).call(graph=graph).layers)


def linears(graph: TracedGraph, **settings: tuple[str, ...]) -> list[Linear]:
    """Only what can be pruned."""
    return [layer for layer in found(graph, **settings) if isinstance(layer, Linear)]


def magnitude(graph: TracedGraph, linear: Linear) -> Array:
    """The stored weight with the two largest of every four along K, the others +0.0."""
    matrix = graph.weight(linear)
    return linear.to_stored(torch.where(two_four_mask(matrix), matrix, 0.0))


def pruned(graph: OnnxGraph, layers: Sequence[Linear] | None = None) -> dict[str, Array]:
    """`magnitude` of every layer, by weight name."""
    return {linear.weight: magnitude(graph, linear) for linear in (linears(graph) if layers is None else layers)}


def rewritten(graph: OnnxGraph, folder: Path, **settings: Any) -> Path:
    """The file with all its layers pruned by magnitude."""
    folder.mkdir(parents=True, exist_ok=True)
    return RewriteWeights(**settings).call(graph=graph, weights=pruned(graph), folder=folder).path


def is_two_four(matrix: Array) -> bool:
    """Bit-exact 2:4 along the last axis, by its own few lines of numpy."""
    bits = np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")
    return bool(((bits.reshape(*bits.shape[:-1], -1, 4) != 0).sum(-1) <= 2).all())


class Walk:
    """Calibration of a graph with magnitude masks in place of a solver; keeps what a test may ask for."""

    def __init__(self, graph: OnnxGraph, feeds: Sequence[Mapping[str, Array]], parts: Sequence[str] = ()) -> None:
        """Runs all stages."""
        self.graph = graph
        self.layers = linears(graph)
        self.stages: list[Stage] = schedule(graph, self.layers)
        batches = [Batch(part, feed) for feed, part in zip(feeds, parts or ["fit"] * len(feeds), strict=True)]
        self.streams = Streams(graph, batches)
        self.weights: dict[str, Array] = {}
        self.seen: dict[str, Observation] = {}
        for stage in self.stages:
            self.seen |= Calibrate().call(streams=self.streams, stage=stage, weights=self.weights).observations
            self.weights |= {linear.weight: magnitude(graph, linear) for linear in stage.linears}


def polygraphys_verdict(proto: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Names of the weights that Polygraphy's own checker looks at, and of those that it calls sparse."""
    pruner = SparsityPruner(proto)
    with np.errstate(over="ignore"):  # it writes the largest double over a value of the weight's own type
        pruner.check()
    return set(pruner.prune_infos), set(pruner.sparse_tensors)
