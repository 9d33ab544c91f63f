"""The differences between the generations of TensorRT, in one table.

Sources: NVIDIA's migration guides 10.x to 11.x (network definition, builder flags, IEngineInspector), and the Python
bindings of 10.16.1 and 11.4.0, against which `tests/engines/tensorrt/test_bindings.py` checks every name that is used.
"""

from dataclasses import dataclass

from prox24_export.errors import UnavailableError


@dataclass(frozen=True)
class Generation:
    """A generation of TensorRT: one row of the table.

    Attributes:
        major: Major version.
        strongly_typed: Whether the flag `STRONGLY_TYPED` is set, so that tensors have the types of the ONNX file.
            TensorRT 8 has no such networks; TensorRT 11 has no others, and ignores the flag.
        precision_flags: Precisions for which a builder flag is set instead. TensorRT 11 removed those flags.
        io_tensors: Key of the inputs and outputs in the inspector's JSON.
        type_keys: Keys of a tensor's layout and type in that JSON.
    """

    major: int
    strongly_typed: bool
    precision_flags: frozenset[str]
    io_tensors: str
    type_keys: tuple[str, ...]


GENERATIONS = (
    Generation(8, False, frozenset({"fp16"}), "Bindings", ("Format/Datatype",)),
    Generation(10, True, frozenset(), "Bindings", ("Format/Datatype",)),
    Generation(11, False, frozenset(), "I/O Tensors", ("Format", "DataType")),
)
OLDEST = (8, 5)  # the tensor-by-name interface of the runtime began there


def find_generation(version: str) -> Generation:
    """Finds the row of a version such as `10.16.1.11`: the newest row that is not newer than it.

    TensorRT 9 follows the rules of TensorRT 10.

    Raises:
        UnavailableError: The version is older than 8.5.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < OLDEST:
        raise UnavailableError(
            f"TensorRT must be {OLDEST[0]}.{OLDEST[1]} or later. Got {version}. Install a later one: "
            "pip install 'prox24-export[tensorrt]'."
        )
    between = 9
    if major == between:
        return GENERATIONS[1]
    return max((row for row in GENERATIONS if row.major <= major), key=lambda row: row.major)


def choose_builder_flags(version: str, precision: str) -> dict[str, bool]:
    """Chooses the arguments of Polygraphy's `CreateConfig` that a precision needs. From TensorRT 10 on it needs none.

    Args:
        version: Version of TensorRT, such as `8.6.1`.
        precision: Precision of the ONNX file: `fp32`, `fp16`, `bf16` or `int8`.

    Raises:
        UnavailableError: The version has neither strongly typed networks nor a flag for the precision.
    """
    row = find_generation(version)
    if row.strongly_typed or row.major >= GENERATIONS[-1].major or precision == "fp32":
        return {}
    if precision not in row.precision_flags:
        raise UnavailableError(
            f"TensorRT {version} cannot build {precision} engines. Expected TensorRT 10 or later, or --precision fp16."
        )
    return {precision: True}
