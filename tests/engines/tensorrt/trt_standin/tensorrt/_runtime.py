"""Runtime, engine, context, inspector. Execution is ONNX Runtime's, on memory at the addresses that were set."""

# ruff: noqa: SLF001, ARG002 (one library whose classes know each other; arguments that TensorRT has)

import ctypes
import time
from typing import Any, SupportsInt

import numpy as np
import onnxruntime as ort
from typing_extensions import Buffer

from tests.engines.tensorrt.trt_standin import host_cuda

from . import _enums as enums
from ._base import Dims, ILogger, IProfiler, say
from ._bound import Bound, bound
from ._builder import ITensor
from ._plan import inspector_json, read_plan

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
OUT_OF_MEMORY = "standin_out_of_memory"  # an input of this name: no context can be made
NO_CAPTURE = "standin_no_capture"  # an input of this name: enqueueing waits for the stream


class EngineInspector(Bound):
    def __init__(self, engine: "ICudaEngine") -> None:
        self._engine = engine

    @bound
    def get_engine_information(self, format: enums.LayerInformationFormat) -> str:  # noqa: A002 (TensorRT's name)
        if format != enums.LayerInformationFormat.JSON:
            return "\n".join(str(layer["name"]) for layer in self._engine._head["layers"])
        return inspector_json(self._engine._head, list(self._engine._inputs), list(self._engine._outputs))


class ICudaEngine(Bound):
    def __init__(self, head: dict[str, Any], model: Any, logger: ILogger) -> None:
        self._head, self._model, self._logger = head, model, logger
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = {value.name: ITensor(value) for value in model.graph.input if value.name not in constants}
        self._outputs = {value.name: ITensor(value) for value in model.graph.output}
        self._tensors = self._inputs | self._outputs

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._head["profiles"])

    @bound
    def get_tensor_name(self, index: SupportsInt) -> str:
        name: str = list(self._tensors)[int(index)]
        return name

    @bound
    def get_tensor_mode(self, name: str) -> enums.TensorIOMode:
        return enums.TensorIOMode.INPUT if name in self._inputs else enums.TensorIOMode.OUTPUT

    @bound
    def get_tensor_dtype(self, name: str) -> enums.DataType:
        dtype: enums.DataType = self._tensors[name]._dtype
        return dtype

    @bound
    def get_tensor_format(self, name: str, profile_index: SupportsInt) -> enums.TensorFormat:
        return enums.TensorFormat.LINEAR

    @bound
    def get_tensor_location(self, name: str) -> enums.TensorLocation:
        return enums.TensorLocation.DEVICE

    @bound
    def get_tensor_profile_shape(self, name: str, profile_index: SupportsInt) -> list[Dims]:
        return [Dims(shape) for shape in self._head["profiles"][int(profile_index)][name]]

    @bound
    def create_execution_context(self) -> "IExecutionContext | None":
        if OUT_OF_MEMORY in self._inputs:
            say(
                self._logger,
                "ERROR",
                "createExecutionContext: Error Code 2: OutOfMemory (Requested size was 12 bytes.)",
            )
            return None
        return IExecutionContext(self)

    @bound
    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class Runtime(Bound):
    @bound
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._code = False

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        self._code = bool(value)

    @bound
    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> ICudaEngine | None:
        found = read_plan(bytes(serialized_engine))
        if found is None:
            say(
                self._logger,
                "ERROR",
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (version tag mismatch.)",
            )
            return None
        return ICudaEngine(*found, self._logger)


class IExecutionContext(Bound):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._session = ort.InferenceSession(engine._model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._active = 0
        self._shapes = self._fixed()
        self._addresses: dict[str, int] = {}
        self._profiler: IProfiler | None = None
        self._prepared: dict[str, tuple[int, ...]] | None = None  # shapes of the last enqueue

    @property
    def profiler(self) -> IProfiler | None:
        return self._profiler

    @profiler.setter
    def profiler(self, value: IProfiler) -> None:
        if not isinstance(value, IProfiler) or "_ready" not in vars(value):
            raise TypeError("profiler must be an initialised IProfiler")
        self._profiler = value

    @bound
    def set_input_shape(self, name: str, shape: tuple | list | Dims) -> bool:  # type: ignore[type-arg] # pybind11's
        low, _, high = self._engine._head["profiles"][self._active][name]
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not fits:
            return self._refuse(f"Static or profile dimension mismatch for tensor {name}")
        self._shapes[name] = tuple(shape)
        return True

    @bound
    def set_optimization_profile_async(self, profile_index: SupportsInt, stream_handle: SupportsInt) -> bool:
        if not 0 <= int(profile_index) < len(self._engine._head["profiles"]):
            return self._refuse(f"setOptimizationProfileAsync: no profile {profile_index}")
        self._active = int(profile_index)
        self._shapes = self._fixed()  # dynamic ones must be set anew
        return True

    @property
    def active_optimization_profile(self) -> int:
        return self._active

    @bound
    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    @bound
    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._engine._inputs:
            return Dims(self._shapes.get(name, self._engine._inputs[name]._shape))
        if self.infer_shapes() or self._depends_on_data(name):
            return Dims(self._engine._outputs[name]._shape)
        zeros: dict[str, Any] = {
            key: np.zeros(shape, NUMPY[self._engine._inputs[key]._dtype.name]) for key, shape in self._shapes.items()
        }
        return Dims(self._session.run([name], zeros)[0].shape)

    @bound
    def set_tensor_address(self, name: str, memory: SupportsInt) -> bool:
        if name not in self._engine._tensors or not memory:
            return self._refuse(f"setTensorAddress: invalid tensor {name} or null address")
        self._addresses[name] = int(memory)
        return True

    @bound
    def execute_async_v3(self, stream_handle: SupportsInt) -> bool:
        stream = host_cuda.Stream.by_handle[int(stream_handle)]
        unset = self.infer_shapes() or [name for name in self._engine._tensors if name not in self._addresses]
        if unset:
            return self._refuse(f"enqueueV3: neither shape nor address may be missing: {unset}")
        if stream.capturing is not None:
            why = "enqueueV3 must be called once before capture" if self._prepared != self._shapes else ""
            why = "operation not permitted when stream is capturing" if NO_CAPTURE in self._engine._inputs else why
            if why:
                stream.capturing.invalid = why
                return self._refuse(why)
        self._prepared = dict(self._shapes)
        stream.submit(self._run)
        if self._profiler is not None:
            stream.synchronize()  # `enqueue_emits_profile` is on
        return True

    def _run(self) -> None:
        started = time.perf_counter()
        feeds = {name: self._at(name).copy() for name in self._engine._inputs}
        for name, value in zip(
            self._engine._outputs, self._session.run(list(self._engine._outputs), feeds), strict=True
        ):
            self._at(name)[...] = value
        layers = self._engine._head["layers"]
        for layer in layers if self._profiler is not None else []:
            share = 1000 * (time.perf_counter() - started) / len(layers)
            assert self._profiler is not None
            self._profiler.report_layer_time(f"{layer['name']}_myl0_1", share)

    def _at(self, name: str) -> Any:
        """The memory of a tensor as an array."""
        shape, dtype = tuple(self.get_tensor_shape(name)), np.dtype(NUMPY[self._engine._tensors[name]._dtype.name])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

    def _fixed(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor._shape for name, tensor in self._engine._inputs.items() if -1 not in tensor._shape}

    def _depends_on_data(self, name: str) -> bool:
        return any(node.op_type == "NonZero" and name in node.output for node in self._engine._model.graph.node)

    def _refuse(self, message: str) -> bool:
        say(self._engine._logger, "ERROR", f"IExecutionContext::{message}")
        return False
