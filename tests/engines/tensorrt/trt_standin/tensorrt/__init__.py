"""A stand-in for TensorRT: builder, parser and runtime as far as our code and Polygraphy's loaders use them.

It keeps names, signatures and order of calls, which tests hold against the real bindings; it "builds" by keeping the
ONNX model and "executes" with ONNX Runtime in host memory. `TRT_STANDIN_VERSION` says which version it claims to be.
"""

import sys
from types import ModuleType
from typing import Any

from ._base import Dims, IHostMemory, ILogger, IProfiler, Logger
from ._bound import Trace
from ._builder import (
    Builder,
    IBuilderConfig,
    ILayer,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
    OnnxParser,
    ParserError,
)
from ._enums import (
    MAJOR,
    VERSION,
    BuilderFlag,
    DataType,
    DeviceType,
    EngineCapability,
    Enumeration,
    LayerInformationFormat,
    LayerType,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    PreviewFeature,
    ProfilingVerbosity,
    TacticSource,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from ._runtime import EngineInspector, ICudaEngine, IExecutionContext, Runtime

__version__ = VERSION
CLASSES = (
    *(Builder, INetworkDefinition, ITensor, ILayer, IBuilderConfig, IOptimizationProfile, ITimingCache, OnnxParser),
    *(ParserError, ILogger, Logger, Runtime, ICudaEngine, IExecutionContext, EngineInspector, IProfiler, IHostMemory),
)
ENUMERATIONS: tuple[type[Enumeration], ...] = (
    *(BuilderFlag, NetworkDefinitionCreationFlag, ProfilingVerbosity, MemoryPoolType, LayerInformationFormat, DataType),
    *(
        TensorIOMode,
        TensorFormat,
        TensorLocation,
        EngineCapability,
        DeviceType,
        LayerType,
        TacticSource,
        PreviewFeature,
    ),
)
OWN = {"CLASSES", "ENUMERATIONS", "Trace", "OWN", "MAJOR", "VERSION"}


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    if not isinstance(logger, ILogger) or not isinstance(namespace, str):
        raise TypeError("init_libnvinfer_plugins(): incompatible function arguments.")
    return True


class _Recorded(ModuleType):
    """Records names that are read, and those that are not there."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in OWN:
            there = name in super().__getattribute__("__dict__")
            (Trace.used if there else Trace.missing).add(("", name))
        return super().__getattribute__(name)


if MAJOR <= 10:
    from ._enums import QuantizationFlag as QuantizationFlag

    ENUMERATIONS = (*ENUMERATIONS, QuantizationFlag)

sys.modules[__name__].__class__ = _Recorded
__all__ = ["MAJOR", "Dims", "Trace"]
