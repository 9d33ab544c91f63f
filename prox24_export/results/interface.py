"""Inputs and outputs of the ONNX file that a run wrote."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of the ONNX file that was written.

    Attributes:
        name: Its name.
        dtype: Its type as numpy calls it, `bfloat16` and `string` included; empty for what is no tensor.
        shape: Its sizes; −1 for a dynamic axis.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelInterface:
    """What the ONNX file that was written reads and returns; both are empty where none was written.

    Attributes:
        inputs: The inputs that the user feeds.
        outputs: The outputs.
    """

    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
