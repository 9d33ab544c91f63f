"""Enumerations with the values of the generation that is stood in for; held against the real ones by a test."""

import enum
import os

VERSION = os.environ.get("TRT_STANDIN_VERSION", "11.4.0.106")
MAJOR = int(VERSION.split(".", maxsplit=1)[0])
OLDER = MAJOR <= 10  # than 11


class Enumeration(enum.Enum):
    """As pybind11's: converts with `int()`, and is no number itself."""

    def __int__(self) -> int:
        return int(self.value)


class BuilderFlag(Enumeration):
    TF32 = 6
    SPARSE_WEIGHTS = 7
    if OLDER:
        FP16 = 0
        INT8 = 1


class NetworkDefinitionCreationFlag(Enumeration):
    if OLDER:
        EXPLICIT_BATCH = 0
    if MAJOR >= 10:
        STRONGLY_TYPED = 1 if OLDER else 0


class ProfilingVerbosity(Enumeration):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class MemoryPoolType(Enumeration):
    WORKSPACE = 0
    DLA_MANAGED_SRAM = 1


class LayerInformationFormat(Enumeration):
    ONELINE = 0
    JSON = 1


class TensorIOMode(Enumeration):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorFormat(Enumeration):
    LINEAR = 0
    CHW2 = 1
    HWC = 8


class TensorLocation(Enumeration):
    DEVICE = 0
    HOST = 1


class EngineCapability(Enumeration):
    STANDARD = 0


class DeviceType(Enumeration):
    GPU = 0
    DLA = 1


class LayerType(Enumeration):
    CONVOLUTION = 0
    MATRIX_MULTIPLY = 17
    CONSTANT = 19
    SHAPE = 23


class DataType(Enumeration):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    if MAJOR >= 10:
        BF16 = 7
        INT64 = 8


class TacticSource(Enumeration):
    EDGE_MASK_CONVOLUTIONS = 3 if OLDER else 0
    JIT_CONVOLUTIONS = 4 if OLDER else 1


class PreviewFeature(Enumeration):
    if MAJOR >= 10:
        ALIASED_PLUGIN_IO_10_03 = 1 if OLDER else 0
        RUNTIME_ACTIVATION_RESIZE_10_10 = 2 if OLDER else 1


class QuantizationFlag(Enumeration):
    if OLDER:
        CALIBRATE_BEFORE_FUSION = 0


class Severity(Enumeration):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4
