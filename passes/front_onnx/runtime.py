"""ONNX Runtime: opens sessions in one way, and finds out what it cannot run on a CPU."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import onnx
import torch

# The library reads this when it is loaded: it must neither report anything nor leave files in the user's home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from prox24_export.errors import InputError

FATAL_ONLY = 4  # severity of log messages: users learn of failures through our own errors
MAY_LACK_KERNELS: dict[int, str] = {onnx.TensorProto.BFLOAT16: "bfloat16", onnx.TensorProto.DOUBLE: "float64"}
LONGEST_SENTENCE = 300  # characters of a message that are kept

ort.set_default_logger_severity(FATAL_ONLY)

# An optimisation of ONNX Runtime 1.31 takes away a Gemm between two Transpose whose result is an output.
LOSES_OUTPUT = "GemmTransposeFusion"
LOST_OUTPUT = "Failed to find node output"

# Another one, for convolutions, ends the whole process where it opens some models with float16.
ENDS_PROCESS = "NchwcTransformer"

CUDA_PROVIDER = "CUDAExecutionProvider"
# Operands are not rounded, and every session takes its sums in the same way.
EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

SEED = 0  # seed of random operators without one of their own: two streams, and two runs, must draw the same


class Session(Protocol):
    """The part of an ONNX Runtime session that is used here."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """Returns the outputs of these names, or all outputs for None, for feeds by name."""


def has_cuda_provider() -> bool:
    """Whether this build of ONNX Runtime can run on NVIDIA GPUs."""
    return CUDA_PROVIDER in ort.get_available_providers()


def open_session(
    model: bytes | Path,
    *,
    has_float16: bool = False,
    gpu: int | None = None,
    as_written: bool = False,
    folder: Path | None = None,
) -> Session:
    """Opens a session for a serialised model or a file. Its random operators draw from a fixed seed.

    It has as many threads as torch, which heeds `OMP_NUM_THREADS`: by itself, ONNX Runtime takes one for each core.

    QuantizeLinear and DequantizeLinear are executed as they stand, and what is between them in float32: the int8
    kernels into which they are fused otherwise saturate on CPUs without VNNI.

    Args:
        model: The serialised model, or the file.
        has_float16: Whether float16 is in the model, so that an optimisation is left out that such models can crash in.
        gpu: The GPU to run on, where this build can, by its number; None for the CPU alone.
        as_written: Whether every node is executed as it stands, none optimised away or fused with others.
        folder: Where the external data of a serialised model are; None where it has none.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Between two calls the cores belong to the solver: idle ONNX Runtime threads must not spin on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    ort.set_seed(SEED)  # each random node's generator is seeded from this and its place when the session is made
    # `enable_fallback`: a second attempt, as on other providers, would be told on stdout
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None and has_cuda_provider():
        providers.insert(0, (CUDA_PROVIDER, {"device_id": gpu, **EXACT}))
    more: dict[str, Any] = {"providers": providers, "enable_fallback": 0}
    left_out = [ENDS_PROCESS] if has_float16 else []
    try:
        made: Session = ort.InferenceSession(source, options, disabled_optimizers=left_out, **more)
    except RuntimeError as error:
        if LOST_OUTPUT not in str(error):
            raise
        made = ort.InferenceSession(source, options, disabled_optimizers=[*left_out, LOSES_OUTPUT], **more)
    return made


def find_types_without_kernel(proto: onnx.ModelProto, path: Path, attempt: Callable[[], object]) -> tuple[str, ...]:
    """Finds the types of a model for which ONNX Runtime has no CPU kernel.

    Args:
        proto: The model.
        path: Its file, for messages.
        attempt: Opens a session for the model as it is.

    Returns:
        `bfloat16` or `float64`, or both; empty where ONNX Runtime runs the file as it is.

    Raises:
        InputError: ONNX Runtime cannot load the model, and a missing kernel for these types does not explain it.
    """
    ends = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    if onnx.TensorProto.BFLOAT16 in ends:  # it may load, but NumPy arrays cannot be fed to it or fetched
        return (MAY_LACK_KERNELS[onnx.TensorProto.BFLOAT16],)
    try:
        attempt()
    except Exception as error:
        wide = sorted(set(_walk_element_types(proto)) & set(MAY_LACK_KERNELS))
        if wide and "NOT_IMPLEMENTED" in str(error):
            return tuple(MAY_LACK_KERNELS[kind] for kind in wide)
        raise InputError(f"ONNX Runtime cannot load {path}: {shorten_message(error)}.") from error
    return ()


def has_float16(proto: onnx.ModelProto) -> bool:
    """Whether a value, a tensor or a Cast of the main graph is known to be float16."""
    return onnx.TensorProto.FLOAT16 in _walk_element_types(proto)


def shorten_message(error: Exception) -> str:
    """Shortens the message of a library's error to its essential part, on one line and without source paths."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"^\S*/\S+\.(cc|h|cpp):\d+ .*?\) ", "", text)
    return (text[:LONGEST_SENTENCE] or type(error).__name__).rstrip(". ")


def _walk_element_types(proto: onnx.ModelProto) -> Iterator[int]:
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        yield value.type.tensor_type.elem_type
    for tensor in proto.graph.initializer:
        yield tensor.data_type
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t.data_type
            if node.op_type == "Cast" and attribute.name == "to":
                yield attribute.i
