"""Small fp16 ONNX models as an engine is built from, dense and 2:4, and the stand-in for TensorRT on the path."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from prox24_export.passes.emit_engine.build import EmitEngines
from prox24_export.shapes import ShapeRange
from tests.engines.tensorrt.trt_standin import host_cuda

STANDIN = Path(__file__).parent / "trt_standin"
VERSIONS = ("10.16.1.11", "11.4.0.106")
RANGE = {"x": ShapeRange((1, 64), (4, 64), (8, 64))}
SETTINGS = EmitEngines(profile=RANGE, workspace=1 << 30)
WIDE, NARROW = "wide", "narrow"  # the stand-in finds sparse tactics faster for the first only
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 64] NAME) => (float[N, 24] y) {
    half = Cast<to = 10>(NAME)
    [wide] a = MatMul(half, w1)
    b = Relu(a)
    [narrow] c = Gemm<transB = 1>(b, w2)
    y = Cast<to = 1>(c)
}
"""


def two_four(matrix: Any) -> Any:
    """Zeroes the two smallest of four along the last axis."""
    groups = matrix.reshape(-1, 4).copy()
    np.put_along_axis(groups, np.argsort(np.abs(groups), axis=1)[:, :2], 0, axis=1)
    return groups.reshape(matrix.shape)


def model(place: Path, *, sparse: bool, name: str = "x", half: bool = True) -> Path:
    """float32 in and out, fp16 within: MatMul of K = 64, then Gemm of K = 16; weights in the file."""
    random = np.random.default_rng(3)
    w1, w2 = random.normal(size=(16, 64)) / 8, random.normal(size=(24, 16)) / 4
    w1, w2 = (two_four(w1), two_four(w2)) if sparse else (w1, w2)
    dtype = np.float16 if half else np.float32
    text = TEXT.replace("NAME", name) if half else TEXT.replace("NAME", name).replace("<to = 10>", "<to = 1>")
    proto = parser.parse_model(text)
    for key, value in (("w1", w1.T), ("w2", w2)):
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), key))
    onnx.save(proto, place)
    return place


def rows(count: int = 4) -> Any:
    return np.random.default_rng(5).normal(size=(count, 64)).astype(np.float32)


def reference(file: Path, **feeds: Any) -> list[Any]:
    return list(ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feeds))


@contextmanager
def standin(version: str) -> Iterator[ModuleType]:
    """The stand-in as `tensorrt`, with a Polygraphy that knows no other, and host memory for `torch.cuda`."""

    def ours(name: str) -> bool:
        return name.partition(".")[0] in ("tensorrt", "polygraphy")

    before = {name: module for name, module in sys.modules.items() if ours(name)}
    with pytest.MonkeyPatch.context() as patch:
        for name in before:
            del sys.modules[name]
        patch.setenv("TRT_STANDIN_VERSION", version)
        patch.syspath_prepend(str(STANDIN))
        host_cuda.install(patch.setattr)
        try:
            yield import_module("tensorrt")
        finally:
            for name in [name for name in sys.modules if ours(name)]:
                del sys.modules[name]
            sys.modules.update(before)
