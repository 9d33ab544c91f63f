"""Parses and builds one ONNX file with the libraries of TensorRT for RTX, by ctypes; a process of its own runs this.

    python library.py < REQUEST

The request is JSON: the folder of the `libraries`, the `model`, the `compute_capability` (89 for 8.9), the `shapes` by
input name as [smallest, likeliest, largest], the `sizes` [smallest, likeliest, largest] of every unknown axis of other
inputs, whether to allow `sparse_weights`, and the file for the `result`. The result is JSON, too: `refused`, a sentence
that says why nothing was tried, or the size of the plan in `plan_bytes`, its SHA-256 in `plan_digest`, and the
`messages` as pairs of severity and text.

The libraries have no interface in C, so methods are called by their place in the table of the object's class. The
places are those of version 1.7.1; every other version is refused. Nothing but the standard library is imported: where
a call is wrong this process dies, and nothing else with it.
"""

import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from ctypes import POINTER, addressof, c_bool, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

VERSION = "1.7.1"
VERSION_NUMBER = 10701  # as getInferLibVersion returns it
BUILDER, PARSER = f"libtensorrt_rtx.so.{VERSION}", f"libtensorrt_onnxparser_rtx.so.{VERSION}"
IMPLEMENTATION = 8  # bytes into an object of the interface, where the address of what implements it stands
DETAILED = 2  # ProfilingVerbosity.kDETAILED
SPARSE_WEIGHTS = 7  # BuilderFlag.kSPARSE_WEIGHTS
ERROR = 1  # ILogger.Severity.kERROR
MOST_AXES = 8

# Places in the tables, from 0. The first group is of classes whose objects point to an implementation, the last is not.
CREATE_CONFIG, CREATE_NETWORK, CREATE_PROFILE, BUILD = 5, 6, 7, 11  # IBuilder
DATA, SIZE = 2, 3  # IHostMemory
SET_FLAG, ADD_PROFILE, SET_VERBOSITY, SET_CAPABILITY_COUNT, SET_CAPABILITY = 9, 23, 25, 55, 57  # IBuilderConfig
COUNT_INPUTS, GET_INPUT = 14, 15  # INetworkDefinition
GET_NAME, GET_DIMENSIONS = 3, 5  # ITensor
SET_DIMENSIONS = 2  # IOptimizationProfile
PARSE_FILE, COUNT_ERRORS, GET_ERROR, DESCRIBE = 1, 3, 4, 1  # IParser, IParserError


class Refused(Exception):  # noqa: N818 (what it says, not a fault)
    """Nothing can be tried with these libraries or this request."""


class Dimensions(ctypes.Structure):
    """`Dims64`: the number of axes, and their sizes."""

    _fields_ = (("count", c_int32), ("sizes", c_int64 * MOST_AXES))


class Logger:
    """An `ILogger`: its table is API language, interface information, two destructors, and `log`."""

    def __init__(self) -> None:
        """Makes the object and its table; both must outlive everything that logs."""
        self.messages: list[tuple[int, str]] = []
        self._log = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)(self._keep)
        self._nothing = ctypes.CFUNCTYPE(c_int32, c_void_p)(lambda _this: 0)
        entries = [ctypes.cast(self._nothing, c_void_p)] * 4 + [ctypes.cast(self._log, c_void_p)]
        self._table = (c_void_p * len(entries))(*entries)
        self._object = (c_void_p * 1)(addressof(self._table))
        self.address = c_void_p(addressof(self._object))

    def _keep(self, _this: int, severity: int, text: bytes) -> None:
        self.messages.append((severity, text.decode(errors="replace")))


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Parses and builds the model of a request, and returns its result."""
    builder_library, parser_library = open_libraries(Path(request["libraries"]))
    logger = Logger()
    builder = create(builder_library.createInferBuilder_INTERNAL, logger.address, c_int32(VERSION_NUMBER))
    network = c_void_p(call(builder, CREATE_NETWORK, c_void_p, c_uint32(0)))  # strongly typed, as always here
    version = c_int32(parser_library.getNvOnnxParserVersion())
    parser = create(parser_library.createNvOnnxParser_INTERNAL, network, logger.address, version)
    plan = b""
    if parse(parser, request["model"], logger):
        config = c_void_p(call(builder, CREATE_CONFIG, c_void_p))
        call(config, SET_VERBOSITY, None, c_int32(DETAILED))
        call(config, SET_CAPABILITY_COUNT, c_bool, c_int32(1))
        if not call(config, SET_CAPABILITY, c_bool, c_int32(request["compute_capability"]), c_int32(0)):
            raise Refused(
                f"compute capability {request['compute_capability'] / 10} is none of those that it builds for."
            )
        if request["sparse_weights"]:
            call(config, SET_FLAG, None, c_int32(SPARSE_WEIGHTS))
        profile = c_void_p(call(builder, CREATE_PROFILE, c_void_p))
        set_shapes(network, profile, request["shapes"], request["sizes"])
        call(config, ADD_PROFILE, c_int32, profile)
        memory = c_void_p(call(builder, BUILD, c_void_p, network, config))
        plan = ctypes.string_at(call(memory, DATA, c_void_p), call(memory, SIZE, c_size_t)) if memory else b""
    digest = hashlib.sha256(plan).hexdigest() if plan else ""
    return {"plan_bytes": len(plan), "plan_digest": digest, "messages": logger.messages}


def open_libraries(folder: Path) -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Opens builder and parser.

    Raises:
        Refused: They are of another version, or cannot be opened.
    """
    try:
        builder = ctypes.CDLL(str(folder / BUILDER), mode=ctypes.RTLD_GLOBAL)
        parser = ctypes.CDLL(str(folder / PARSER), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise Refused(f"the libraries cannot be opened: {error}.") from error
    found = int(builder.getInferLibVersion())
    if found != VERSION_NUMBER:
        name = f"{found // 10000}.{found // 100 % 100}.{found % 100}"
        raise Refused(
            f"{BUILDER} says that it is version {name}. Expected {VERSION}: methods are called by their place."
        )
    return builder, parser


def create(entry: Any, *arguments: Any) -> c_void_p:
    """Calls a function of a library that makes an object."""
    entry.restype = c_void_p
    made = entry(*arguments)
    if not made:
        raise Refused(f"{entry.__name__} made no object.")
    return c_void_p(made)


def call(target: c_void_p, place: int, returns: Any, *arguments: Any) -> Any:
    """Calls a method of an object that points to an implementation."""
    inner = ctypes.cast(c_void_p((target.value or 0) + IMPLEMENTATION), POINTER(c_void_p))[0]
    return call_directly(c_void_p(inner), place, returns, *arguments)


def call_directly(target: c_void_p, place: int, returns: Any, *arguments: Any) -> Any:
    """Calls a method of an object by its place in the table, which the object's first word points to."""
    table = ctypes.cast(target, POINTER(c_void_p))[0] or 0
    entry = ctypes.cast(c_void_p(table), POINTER(c_void_p))[place]
    return ctypes.CFUNCTYPE(returns, c_void_p, *map(type, arguments))(entry or 0)(target, *arguments)


def parse(parser: c_void_p, model: str, logger: Logger) -> bool:
    """Parses a file; where that fails, the parser's own errors are added to the messages."""
    if call_directly(parser, PARSE_FILE, c_bool, c_char_p(model.encode()), c_int32(0)):
        return True
    for index in range(call_directly(parser, COUNT_ERRORS, c_int32)):
        error = c_void_p(call_directly(parser, GET_ERROR, c_void_p, c_int32(index)))
        text = call_directly(error, DESCRIBE, c_char_p).decode(errors="replace")
        logger.messages.append((ERROR, f"parser: {text}"))
    return False


def set_shapes(
    network: c_void_p, profile: c_void_p, shapes: Mapping[str, Sequence[Sequence[int]]], sizes: Sequence[int]
) -> None:
    """Gives every input with an unknown axis its smallest, likeliest and largest shape.

    Raises:
        Refused: A range is of no such input, or TensorRT does not take it.
    """
    left = set(shapes)
    for index in range(call(network, COUNT_INPUTS, c_int32)):
        tensor = c_void_p(call(network, GET_INPUT, c_void_p, c_int32(index)))
        name = call(tensor, GET_NAME, c_char_p)
        known = read_dimensions(tensor)
        left.discard(name.decode())
        if -1 not in known:
            continue
        wanted = shapes.get(name.decode()) or [[size if axis < 0 else axis for axis in known] for size in sizes]
        for selector, shape in enumerate(wanted):
            dimensions = Dimensions(len(shape), (c_int64 * MOST_AXES)(*shape))
            given = (c_char_p(name), c_int32(selector), c_void_p(addressof(dimensions)))
            if not call(profile, SET_DIMENSIONS, c_bool, *given):
                raise Refused(f"input {name.decode()} {known} does not take the shape {list(shape)}.")
    if left:
        raise Refused(f"shapes were given for {', '.join(sorted(left))}, which is no input of the model.")


def read_dimensions(tensor: c_void_p) -> list[int]:
    """Reads the sizes of a tensor's axes; -1 is an unknown one. The structure is returned through a hidden argument."""
    found = Dimensions()
    inner = c_void_p(ctypes.cast(c_void_p((tensor.value or 0) + IMPLEMENTATION), POINTER(c_void_p))[0])
    table = ctypes.cast(inner, POINTER(c_void_p))[0] or 0
    entry = ctypes.cast(c_void_p(table), POINTER(c_void_p))[GET_DIMENSIONS]
    ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p)(entry or 0)(addressof(found), inner)
    return list(found.sizes[: found.count])


def main() -> None:
    """Reads the request and writes the result."""
    request = json.load(sys.stdin)
    try:
        result = build(request)
    except Refused as error:
        result = {"refused": str(error)}
    Path(request["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
