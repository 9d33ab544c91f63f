"""The stand-in for TensorRT refuses what TensorRT refuses: calls out of order, and of the wrong type."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from prox24_export.passes.emit_engine.build import BuiltEngine
from prox24_export.passes.emit_engine.capture_log import capture_log
from tests.engines.tensorrt.trt_models import model
from tests.engines.tensorrt.trt_standin import host_cuda


def test_the_stand_in_refuses_calls_out_of_order_and_of_the_wrong_type(trt: ModuleType, tmp_path: Path) -> None:
    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined] # known at run time
        def log(self, severity: Any, msg: str) -> None:
            said.append(f"{severity.name} {msg}")

    trt.ILogger.first = None
    logger = Log()
    builder = trt.Builder(logger)
    network, config = builder.create_network(0), builder.create_builder_config()
    assert builder.build_serialized_network(network, config) is None, "not parsed"
    assert "ERROR" in said[-1]
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(model(tmp_path / "m.onnx", sparse=True)))
    assert builder.build_serialized_network(network, config) is None, "no profile"
    with pytest.raises(TypeError, match="flag must be"):
        config.set_flag(7)
    with pytest.raises(TypeError, match="model must be"):
        parser.parse_from_file(tmp_path)
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1.5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        builder.create_network(flag=1)
    with pytest.raises(TypeError):
        trt.Builder("logger")
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    trt.ILogger.first = None


def test_the_stand_ins_context_needs_shapes_addresses_and_a_first_call_before_capture(
    trt: ModuleType, built: tuple[BuiltEngine, ...]
) -> None:
    from polygraphy.backend.trt import EngineFromBytes  # noqa: PLC0415 (known only with the stand-in)

    with capture_log() as log:
        context = EngineFromBytes(built[1].engine.read_bytes())().create_execution_context()
        stream = host_cuda.Stream()
        assert context.infer_shapes() == ["x"]
        assert not context.execute_async_v3(stream.cuda_stream), "no shapes"
        assert not context.set_input_shape("x", (9, 64)), "outside the profile"
        assert context.set_input_shape("x", (2, 64))
        assert not context.execute_async_v3(stream.cuda_stream), "no addresses"
        assert not context.set_tensor_address("x", 0), "null"
        x, y = np.zeros((2, 64), np.float32), np.zeros((2, 24), np.float32)
        assert context.set_tensor_address("x", x.ctypes.data)
        assert context.set_tensor_address("y", y.ctypes.data)
        with (
            pytest.raises(RuntimeError, match="called once before capture"),
            host_cuda.graph(host_cuda.CUDAGraph(), stream=stream),
        ):
            context.execute_async_v3(stream.cuda_stream)
        with pytest.raises(TypeError, match="initialised"):
            context.profiler = object.__new__(trt.IProfiler)
    assert sum("enqueueV3" in line for line in log.errors) == 3
