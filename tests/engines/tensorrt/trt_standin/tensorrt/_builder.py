"""Builder, network, configuration, parser. A call out of order fails as TensorRT does: None, False, a log line."""

# ruff: noqa: SLF001, ARG002 (one library whose classes know each other; arguments that TensorRT has)

import json
from pathlib import Path
from typing import Any, SupportsInt

import onnx
from typing_extensions import Buffer

from . import _enums as enums
from ._base import Dims, IHostMemory, ILogger, say
from ._bound import Bound, bound
from ._plan import linears, plan_of, sparsity_lines

KNOWN = {
    *("MatMul", "Gemm", "Add", "Relu", "Cast", "Identity", "Reshape", "Gelu", "Shape", "Mul", "NonZero"),
    *("QuantizeLinear", "DequantizeLinear"),
}
TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.BOOL: "BOOL",
}


class ITensor(Bound):
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self._name = value.name
        self._shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        self._dtype = getattr(enums.DataType, TYPES[kind.elem_type])

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> Dims:
        return Dims(self._shape)

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def is_shape_tensor(self) -> bool:
        return False


class ILayer(Bound):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return enums.LayerType.MATRIX_MULTIPLY

    if enums.MAJOR <= 10:

        @property
        def precision_is_set(self) -> bool:
            return False


class INetworkDefinition(Bound):
    def __init__(self, builder: "Builder", flags: int) -> None:
        self._builder, self._flags = builder, flags
        self._model: onnx.ModelProto | None = None

    @bound
    def get_flag(self, flag: enums.NetworkDefinitionCreationFlag) -> bool:
        return bool(self._flags & 1 << int(flag))

    @property
    def num_inputs(self) -> int:
        return len(self._inputs())

    @property
    def num_outputs(self) -> int:
        return 0 if self._model is None else len(self._model.graph.output)

    @bound
    def get_input(self, index: SupportsInt) -> ITensor:
        return ITensor(self._inputs()[int(index)])

    @bound
    def __len__(self) -> int:
        return 0 if self._model is None else len(self._model.graph.node)

    @bound
    def __getitem__(self, arg0: SupportsInt) -> ILayer:
        if self._model is None or int(arg0) >= len(self._model.graph.node):
            raise IndexError(int(arg0))
        return ILayer(self._model.graph.node[int(arg0)].name)

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        if self._model is None:
            return []
        constants = {tensor.name for tensor in self._model.graph.initializer}
        return [value for value in self._model.graph.input if value.name not in constants]


class IOptimizationProfile(Bound):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    @bound
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002 (TensorRT's names)
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = [[int(size) for size in shape] for shape in (min, opt, max)]

    def __bool__(self) -> bool:
        return bool(self._shapes)


class ITimingCache(Bound):
    def __init__(self, entries: dict[str, float]) -> None:
        self._entries = entries

    @bound
    def combine(self, input_cache: "ITimingCache", ignore_mismatch: bool) -> bool:
        self._entries.update(input_cache._entries)
        return True

    @bound
    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps(self._entries).encode())


class IBuilderConfig(Bound):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._flags = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._pools: dict[Any, int] = {}
        self._verbosity = enums.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._level = 3

    @bound
    def set_flag(self, flag: enums.BuilderFlag) -> None:
        self._flags.add(flag.name)

    @bound
    def clear_flag(self, flag: enums.BuilderFlag) -> None:
        self._flags.discard(flag.name)

    @bound
    def get_flag(self, flag: enums.BuilderFlag) -> bool:
        return flag.name in self._flags

    @bound
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @bound
    def create_timing_cache(self, serialized_timing_cache: Buffer) -> ITimingCache:
        raw = bytes(serialized_timing_cache)
        return ITimingCache(json.loads(raw) if raw else {})

    @bound
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    @bound
    def get_timing_cache(self) -> ITimingCache:
        assert self._cache is not None
        return self._cache

    @bound
    def set_memory_pool_limit(self, pool: enums.MemoryPoolType, pool_size: SupportsInt) -> None:
        self._pools[pool] = int(pool_size)

    @bound
    def get_memory_pool_limit(self, pool: enums.MemoryPoolType) -> int:
        return self._pools.get(pool, 80 << 30)

    @bound
    def get_tactic_sources(self) -> int:
        return 0

    @bound
    def get_preview_feature(self, feature: enums.PreviewFeature) -> bool:
        return False

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def DLA_core(self) -> int:  # noqa: N802 (TensorRT's name)
        return -1

    @property
    def default_device_type(self) -> Any:
        return enums.DeviceType.GPU

    @property
    def engine_capability(self) -> Any:
        return enums.EngineCapability.STANDARD

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        if not isinstance(value, enums.ProfilingVerbosity):
            raise TypeError("profiling_verbosity must be a ProfilingVerbosity")
        self._verbosity = value

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        if not isinstance(value, int):
            raise TypeError("builder_optimization_level must be an int")
        self._level = value

    if enums.MAJOR <= 10:

        @property
        def int8_calibrator(self) -> None:
            return None

        @bound
        def get_quantization_flag(self, flag: enums.QuantizationFlag) -> bool:
            return False


class ParserError(Bound):
    def __init__(self, text: str) -> None:
        self._text = text

    @bound
    def desc(self) -> str:
        return self._text

    def __str__(self) -> str:
        return f"In node 0 with name:  and operator:  (parseNode): UNSUPPORTED_NODE: {self._text}"


class OnnxParser(Bound):
    @bound
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @bound
    def parse_from_file(self, model: str) -> bool:
        if not Path(model).is_file():
            say(self._logger, "ERROR", f"Could not open file {model}")
            return False
        try:
            loaded = onnx.load(model)
        except Exception:  # noqa: BLE001 (protobuf's class differs between its implementations)
            say(self._logger, "ERROR", f"Failed to parse ONNX model from file: {model}")
            return False
        for node in loaded.graph.node:
            if node.op_type not in KNOWN:
                self._errors.append(ParserError(f"Plugin not found for operator: {node.op_type}"))
        if self._errors:
            return False
        self._network._model = loaded
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    @bound
    def get_error(self, index: SupportsInt) -> ParserError:
        return self._errors[int(index)]


class Builder(Bound):
    @bound
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    @bound
    def create_network(self, flags: SupportsInt = 0) -> INetworkDefinition:
        return INetworkDefinition(self, int(flags))

    @bound
    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    @bound
    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    @bound
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        model = network._model
        if model is None:
            self._fail("Network validation failed: network must have at least one output.")
            return None
        complaint = _uncovered(network, config)
        if complaint:
            self._fail(complaint)
            return None
        typed = enums.MAJOR >= 11 or (enums.MAJOR == 10 and bool(network._flags & 2))
        if typed and config._flags & {"FP16", "INT8"}:
            self._fail("Precision flags are not supported with strongly typed networks.")
            return None
        halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
        half = bool(halves) if typed else "FP16" in config._flags
        sparse = "SPARSE_WEIGHTS" in config._flags
        layers = list(linears(model, half=half)) if half else []
        say(self._logger, "WARNING", "Detected layers that a stand-in cannot fuse.")
        if sparse:
            for severity, message in sparsity_lines(layers):
                say(self._logger, severity, message)
        if config._cache is not None:
            for layer in layers:
                key = f"{layer.name}:{layer.k}:{layer.pattern}"
                seen = "Found" if key in config._cache._entries else "Timed"
                say(self._logger, "VERBOSE", f"{seen} tactics of {layer.name} in the timing cache")
                config._cache._entries[key] = 0.1
        say(self._logger, "INFO", "Engine generation completed in 0.1 seconds.")
        profiles = [profile._shapes for profile in config._profiles]
        detailed = config._verbosity == enums.ProfilingVerbosity.DETAILED
        return IHostMemory(plan_of(model, sparse=sparse, half=half, detailed=detailed, profiles=profiles))

    def _fail(self, message: str) -> None:
        say(self._logger, "ERROR", f"IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error ({message})")


def _uncovered(network: INetworkDefinition, config: IBuilderConfig) -> str:
    for value in network._inputs():
        tensor = ITensor(value)
        if -1 in tensor._shape and not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        for shape in config._profiles[0]._shapes[tensor._name] if config._profiles else []:
            fits = len(shape) == len(tensor._shape) and all(
                declared in (-1, size) for declared, size in zip(tensor._shape, shape, strict=True)
            )
            if not fits:
                return f"profile shape {shape} does not fit input {tensor._name} of shape {tensor._shape}"
    return ""
