"""External data: the files beside a model that hold its tensors, checked before they are read, one tensor at a time.

What ONNX Runtime reads is read here too: files with several hard links, as stores without duplicates have them, and
links, as long as they end in the folder of the model or in that of the file that the model is a link to.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from prox24_export.errors import InputError
from prox24_export.input_files import expect_file
from prox24_export.passes.front_onnx.tensors import count_bytes, find_model_tensors, has_external, is_external

LONGEST_NUMBER = 19  # digits of the largest offset that a file can have
FOLLOWS = "Export the model again, or put the file that belongs to it beside it."


@dataclass(frozen=True)
class DataPlace:
    """Where the data of a tensor are.

    Attributes:
        file: The file, with all links followed.
        offset: The first byte.
        length: The number of bytes.
    """

    file: Path
    offset: int
    length: int


def find_place(tensor: onnx.TensorProto, model: Path) -> DataPlace:
    """Finds the data of an external tensor. Nothing is read but what the system says of the file.

    Args:
        tensor: The tensor.
        model: The model's file, beside which the data are.

    Raises:
        InputError: The location is missing, absolute, no possible name, or leads out of the model's folder; the file is
            not there or not a regular one; or offset and length are no numbers, or do not fit the file or the tensor.
    """
    who = f"tensor {tensor.name!r} of {model}"
    file = _find_file(tensor, model, who)
    size = expect_file(file, f"external data of {who}:", "a file beside the model").st_size
    wanted = count_bytes(tensor, str(model))
    if wanted is None:
        raise InputError(f"{who} has a type that external data cannot have. {FOLLOWS}")
    offset, length = (_read_number(tensor, key, who) for key in ("offset", "length"))
    if length not in {0, wanted}:  # 0 counts as not given, as it does for ONNX Runtime
        raise InputError(
            f"{who} says that its external data {read_location(tensor)!r} are {length:,} bytes. Expected "
            f"{wanted:,}, by its shape {list(tensor.dims)} and type. {FOLLOWS}"
        )
    if offset + wanted > size:
        raise InputError(
            f"{who} wants {wanted:,} bytes from byte {offset:,} of its external data {read_location(tensor)!r}, and "
            f"the file holds {size:,}. {FOLLOWS}"
        )
    return DataPlace(file, offset, wanted)


def read_payload(tensor: onnx.TensorProto, model: Path) -> bytes:
    """Reads the bytes of an external tensor, and no others.

    Raises:
        InputError: As for `find_place`, or the file cannot be read.
    """
    place = find_place(tensor, model)
    try:
        with place.file.open("rb") as file:
            file.seek(place.offset)
            payload = file.read(place.length)
    except OSError as error:
        raise InputError(f"external data {place.file} cannot be read: {error.strerror}. {FOLLOWS}") from error
    if len(payload) != place.length:
        raise InputError(f"external data {place.file} became shorter while they were read. {FOLLOWS}")
    return payload


def load_tensor(tensor: onnx.TensorProto, model: Path) -> None:
    """Puts the data of an external tensor into the tensor itself.

    Raises:
        InputError: As for `read_payload`.
    """
    tensor.raw_data = read_payload(tensor, model)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def load_tensors(proto: onnx.ModelProto, model: Path, leave: Collection[str] = ()) -> None:
    """Puts the data of external tensors into the model itself.

    Args:
        proto: The model. It is changed.
        model: Its file.
        leave: Names of initializers that stay external.

    Raises:
        InputError: As for `read_payload`.
    """
    for name, tensor in find_model_tensors(proto):
        if is_external(tensor) and name not in leave:
            load_tensor(tensor, model)


def open_model(proto: onnx.ModelProto, model: Path) -> ir.Model:
    """Opens a model with onnx_ir, which reads external data where their values are asked for.

    Args:
        proto: The model, whose external data were checked.
        model: Its file.
    """
    if has_external(proto):
        absolute = onnx.ModelProto()
        absolute.CopyFrom(proto)
        for _, tensor in find_model_tensors(absolute):
            if is_external(tensor):  # onnx_ir refuses files with several links, unless a place is given in full
                file = find_place(tensor, model).file
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = str(file)
        proto = absolute
    log = logging.getLogger("onnx_ir.serde")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns of values from nowhere, which sparse initializers are to it
    try:
        return ir.from_proto(proto)
    finally:
        log.setLevel(before)


def list_external_files(proto: onnx.ModelProto, model: Path) -> list[Path]:
    """Lists the files of external data that a model's tensors name, in their order, each once.

    Args:
        proto: The model.
        model: Its file.

    Raises:
        InputError: As for `find_place`.
    """
    files: dict[Path, None] = {}
    for _, tensor in find_model_tensors(proto):
        if is_external(tensor):
            find_place(tensor, model)
            files[model.parent / read_location(tensor)] = None
    return list(files)


def read_location(tensor: onnx.TensorProto) -> str:
    """Reads the name of the file that holds an external tensor; empty where none is given."""
    return _read_entry(tensor, "location")


def _read_entry(tensor: onnx.TensorProto, key: str) -> str:
    return next((str(entry.value) for entry in reversed(tensor.external_data) if entry.key == key), "")


def _read_number(tensor: onnx.TensorProto, key: str, who: str) -> int:
    """Reads an offset or a length; 0 where it is not given."""
    if all(entry.key != key for entry in tensor.external_data):
        return 0
    text = _read_entry(tensor, key)
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise InputError(f"{who} has external data with the {key} {text[:40]!r}. Expected a number of bytes. {FOLLOWS}")
    return int(text)


def _find_file(tensor: onnx.TensorProto, model: Path, who: str) -> Path:
    location = read_location(tensor)
    if not location:
        raise InputError(f"{who} names no file for its external data. {FOLLOWS}")
    what = f"external data {location[:80]!r} of {who}"
    if "\0" in location:
        raise InputError(f"{what} have a NUL byte in their name. {FOLLOWS}")
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise InputError(f"{what} have an absolute name. Expected one beside the model. {FOLLOWS}")
    try:
        file = (model.parent / location).resolve()
        folders = {model.parent.resolve(), model.resolve().parent}
    except (OSError, RuntimeError) as error:  # too long, or links in a circle
        raise InputError(f"{what} cannot be found: {error}. {FOLLOWS}") from error
    if not any(file.is_relative_to(folder) for folder in folders):
        raise InputError(f"{what} lie outside its folder, at {file}. Move them beside it.")
    return file
