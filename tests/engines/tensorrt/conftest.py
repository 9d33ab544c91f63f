"""Each version of the stand-in for TensorRT, and engines that it built."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prox24_export.passes.emit_engine.build import BuiltEngine
from tests.engines.tensorrt.trt_models import SETTINGS, VERSIONS, model, standin


@pytest.fixture(scope="module", params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    with standin(request.param) as module:
        yield module


@pytest.fixture
def built(trt: ModuleType, tmp_path: Path) -> tuple[BuiltEngine, ...]:
    del trt
    dense, sparse = model(tmp_path / "d.onnx", sparse=False), model(tmp_path / "s.onnx", sparse=True)
    (tmp_path / "engines").mkdir()
    return SETTINGS.call(dense=dense, sparse=sparse, folder=tmp_path / "engines").engines
