"""Reads a model's file, and expects of it what every later step relies on."""

from pathlib import Path

import onnx

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.external_data import list_external_files
from prox24_export.passes.front_onnx.function_calls import expect_bounded_calls
from prox24_export.passes.front_onnx.tensors import check_tensors

LARGEST = (1 << 31) - 1  # bytes: the limit of protobuf, beyond which tensors are external


def read_model(path: Path) -> onnx.ModelProto:
    """Reads a model's file. External data are looked for, and left where they are.

    Args:
        path: The file.

    Raises:
        InputError: It is no regular file or no ONNX model, it holds no node or no opset, a function calls itself, or a
            tensor has a shape that does not fit what is stored for it.
    """
    expect_file(path, "model", "the path of an .onnx file", most=LARGEST)
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an ONNX model: {runtime.shorten_message(error)}. Expected an .onnx file."
        ) from error
    if not proto.graph.node:
        raise InputError(f"{path} holds no graph. Expected an .onnx file with at least one node.")
    if not proto.opset_import:
        raise InputError(f"{path} declares no opset. Expected at least one opset import; export the model again.")
    expect_bounded_calls(proto, str(path))
    check_tensors(proto, str(path))
    list_external_files(proto, path)
    return proto
