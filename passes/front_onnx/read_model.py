"""Reads a model's file, and expects of it what every later step relies on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.front_onnx.check_nodes import check_nodes
from prox24_export.passes.front_onnx.check_texts import check_texts
from prox24_export.passes.front_onnx.external_data import list_external_files
from prox24_export.passes.front_onnx.function_calls import expect_bounded_calls
from prox24_export.passes.front_onnx.tensors import check_tensors, has_external

LARGEST = (1 << 31) - 1  # bytes: the limit of protobuf, beyond which tensors are external


def read_model(path: Path) -> onnx.ModelProto:
    """Reads a model's file. External data are looked for, and left where they are.

    Args:
        path: The file.

    Raises:
        InputError: It is no regular file or no ONNX model, it holds no node or no opset, a name is no text, a value is
            a map, a function calls itself, a node is not what its operator's schema says, or a tensor has a shape that
            does not fit what is stored for it.
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
    check_texts(proto, str(path))
    expect_bounded_calls(proto, str(path))
    check_nodes(proto, str(path))
    _expect_no_maps(proto.graph, path)
    check_tensors(proto, str(path))
    list_external_files(proto, path)
    return proto


@contextmanager
def blame_invalid_model(proto: onnx.ModelProto, path: Path) -> Iterator[None]:
    """Runs a block that relies on what the standard says of nodes, and where it fails asks onnx whether they keep it.

    Args:
        proto: The model.
        path: Its file, which is asked about where there are external data.

    Raises:
        InputError: The block failed, and the model is invalid. A fault of the block with a valid model stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        try:
            onnx.checker.check_model(str(path) if has_external(proto) else proto, full_check=True)
        except Exception as found:  # noqa: BLE001 - whatever it says is wrong
            raise make_refusal(path, found) from error
        raise


def make_refusal(path: Path, found: Exception) -> InputError:
    """Makes the error that says what is wrong with a model."""
    return InputError(
        f"{path} is not a valid ONNX model: {runtime.shorten_message(found)}. Expected a file that onnx.checker "
        "accepts; export it again with a current exporter."
    )


def _expect_no_maps(graph: onnx.GraphProto, path: Path) -> None:
    """Refuses maps, which onnx_ir cannot read: classifiers of scikit-learn end in one, and it is easily left out."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if not _holds_map(value.type):
            continue
        maker = next((node for node in graph.node if value.name in node.output), None)
        by = "" if maker is None else f", which node {maker.name or 'without a name'} ({maker.op_type}) makes,"
        raise InputError(
            f"{path}: {value.name!r}{by} is a map. Expected tensors: export the model without maps, a classifier of "
            "scikit-learn with convert_sklearn(…, options={'zipmap': False})."
        )


def _holds_map(kind: onnx.TypeProto) -> bool:
    """Whether a type is that of a map, or of a sequence or an optional of maps."""
    match kind.WhichOneof("value"):
        case "sequence_type":
            return _holds_map(kind.sequence_type.elem_type)
        case "optional_type":
            return _holds_map(kind.optional_type.elem_type)
        case "map_type":
            return True
    return False
