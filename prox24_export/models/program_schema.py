"""Checks the JSON in a `.pt2` file against torch's own schema, and every text in it by where it stands.

torch writes names out of the file into Python code and runs that, looks operators up by name, and has sympy evaluate
expressions. Its reader checks none of them. Here every value must have the type that the schema gives it, and every
text must be what is known to be harmless in its place: a name, unless `TEXTS` says otherwise.
"""

import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch._export.serde import schema

from prox24_export.models.program_expressions import (
    ALL,
    UnknownCodeError,
    expect_expression,
    expect_guard,
    has_range,
    is_identifier,
)
from prox24_export.models.program_targets import is_container, is_operator

LARGEST = 1 << 64
DEVICES = frozenset({"cpu", "cuda", "meta"})
DIALECTS = frozenset({"ATEN", "TRAINING", ""})
METADATA = frozenset({"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "custom", "from_node"})
PATH = re.compile(r"[\w .:/@+<>-]*", re.ASCII)
PAYLOAD = re.compile(r"(weight|tensor)_\d{1,9}", re.ASCII)
INFINITE = frozenset({"Infinity", "-Infinity", "NaN"})
QUOTES = re.compile(r"[\"'\\\n\r{}]")
SHOWN = 60  # the most characters of a text that a message shows


class UnknownEntryError(ValueError):
    """The JSON holds something that is not known to be harmless; the message says what, and where."""


def expect_known(kind: type, value: Any) -> None:
    """Expects JSON values that are harmless when torch reads them as `kind`.

    Args:
        kind: A class of `torch._export.serde.schema`.
        value: What `json.loads` returned. Names that the schema does not have are not looked at; torch ignores them.

    Raises:
        UnknownEntryError: They are not.
    """
    try:
        _check(kind, value, kind.__name__, "")
    except RecursionError as error:
        raise UnknownEntryError("too many values within each other") from error
    length = sum(map(len, set(_list_expressions(value))))
    if length > ALL:
        raise UnknownEntryError(f"expected symbolic expressions of at most {ALL:,} characters, got {length:,}")


def _list_expressions(value: Any) -> Iterator[str]:
    """Lists the symbolic expressions in JSON values that were checked."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left.extend(part.values())
            if "expr_str" in part:
                yield str(part["expr_str"])
        elif isinstance(part, list):
            left.extend(part)


def _check(kind: Any, value: Any, place: str, rule: str) -> None:
    """Checks `value`, which stands at `place`; `rule` is the class and field that it stands in."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        if value is not None:
            _check(inner[0], value, place, rule)
    elif origin is list:
        _expect(isinstance(value, list), value, "a list", place)
        for index, entry in enumerate(value):
            _check(inner[0], entry, f"{place}[{index}]", rule)
    elif origin is dict:
        _expect(isinstance(value, dict), value, "an object", place)
        for key, entry in value.items():
            _expect(KEYS.get(rule, is_identifier)(key), key, "a name", place)
            _check(inner[1], entry, f"{place}.{key}", rule)
    elif is_dataclass(kind):
        _check_object(kind, value, place)
    else:
        _check_scalar(kind, value, place, rule)


def _check_object(kind: Any, value: Any, place: str) -> None:
    _expect(isinstance(value, dict), value, "an object", place)
    _expect(kind not in REFUSED, value, "tensors and numbers only, no object of another kind", place)
    hints, names = _list_fields(kind)
    if "_type" in hints:
        _expect(len(value) == 1 and value.keys() <= names, value, "one of the kinds that torch knows", place)
    for name in names & value.keys():
        _check(hints[name], value[name], f"{place}.{name}", f"{kind.__name__}.{name}")
    if kind is schema.Graph:
        for argument in value.get("inputs", ()):
            _expect_no_quotes(argument, place)
    elif kind is schema.UserInputSpec:
        _expect_no_quotes(value.get("arg", {}), place)


def _check_scalar(kind: Any, value: Any, place: str, rule: str) -> None:
    if kind is str:
        _expect(isinstance(value, str), value, "a text", place)
        _check_text(value, place, rule)
    elif kind is bool:
        _expect(isinstance(value, bool), value, "true or false", place)
    elif kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _expect(number or (isinstance(value, str) and value in INFINITE), value, "a number", place)
    else:
        whole = type(value) is int and abs(value) <= LARGEST
        _expect(whole and (kind is int or _has_number(kind, value)), value, "a whole number that torch knows", place)


def _has_number(kind: Any, value: int) -> bool:
    return issubclass(kind, IntEnum) and value in {entry.value for entry in kind}


def _check_text(value: str, place: str, rule: str) -> None:
    wanted, check = TEXTS.get(rule, NAME)
    try:
        harmless = check(value)
    except UnknownCodeError as error:
        raise UnknownEntryError(f"expected {wanted} at {place}, got {_show(value)} with {error}") from error
    _expect(harmless, value, wanted, place)


def _expect_no_quotes(argument: Mapping[str, Any], place: str) -> None:
    """Refuses quotes in a text that is an input: torch writes it between quotes into code."""
    text = argument.get("as_string", "")
    _expect(not QUOTES.search(text), text, "a text without quotes as an input", place)


@cache
def _list_fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    return get_type_hints(kind, vars(schema)), frozenset(entry.name for entry in fields(kind))


def _expect(holds: bool, value: Any, wanted: str, place: str) -> None:
    if not holds:
        raise UnknownEntryError(f"expected {wanted} at {place}, got {_show(value)}")


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _is_expression(text: str) -> bool:
    expect_expression(text)
    return True


def _is_guard(text: str) -> bool:
    expect_guard(text)
    return True


def _is_any(_text: str) -> bool:
    return True


def _is_path(text: str) -> bool:
    return PATH.fullmatch(text) is not None


Rule = tuple[str, Callable[[str], bool]]

NAME: Rule = ("a name", is_identifier)
TEXTS: dict[str, Rule] = {
    "SymExpr.expr_str": ("a symbolic expression", _is_expression),
    "ExportedProgram.guards_code": ("a condition on sizes", _is_guard),
    "ExportedProgram.verifiers": ("a dialect of torch.export", DIALECTS.__contains__),
    "ExportedProgram.torch_version": ("a version", _is_path),
    "Node.target": ("an operator of torch", is_operator),
    "Argument.as_operator": ("an operator of torch", is_operator),
    "Node.metadata": ("a text", _is_any),
    "GraphModule.metadata": ("a text", _is_any),
    "NamedArgument.name": ("a name", lambda text: not text or is_identifier(text)),
    "InputToConstantInputSpec.name": ("a name", lambda text: not text or is_identifier(text)),
    "Device.type": (f"a device of {', '.join(sorted(DEVICES))}", DEVICES.__contains__),
    "Argument.as_string": ("a text", _is_any),
    "Argument.as_strings": ("a text", _is_any),
    "ConstantValue.as_string": ("a text without quotes", lambda text: not QUOTES.search(text)),
    "InputToParameterSpec.parameter_name": ("the path of a parameter", _is_path),
    "InputToBufferSpec.buffer_name": ("the path of a buffer", _is_path),
    "InputToTensorConstantSpec.tensor_constant_name": ("the path of a tensor", _is_path),
    "BufferMutationSpec.buffer_name": ("the path of a buffer", _is_path),
    "ParameterMutationSpec.parameter_name": ("the path of a parameter", _is_path),
    "GradientToParameterSpec.parameter_name": ("the path of a parameter", _is_path),
    "ModuleCallEntry.fqn": ("the path of a module", _is_path),
    "ModuleCallSignature.in_spec": ("nested tuples, lists and dictionaries", is_container),
    "ModuleCallSignature.out_spec": ("nested tuples, lists and dictionaries", is_container),
    "PayloadMeta.path_name": ("the name of a tensor's bytes", lambda text: PAYLOAD.fullmatch(text) is not None),
}
"""What a text must be, by class and field of the schema; a name that code can have where nothing is said."""

KEYS: dict[str, Callable[[str], bool]] = {
    "Node.metadata": METADATA.__contains__,
    "GraphModule.metadata": METADATA.__contains__,
    "GraphModule.treespec_namedtuple_fields": _is_path,
    "ExportedProgram.range_constraints": has_range,
    "PayloadConfig.config": _is_path,
}
"""What the keys of an object must be, by class and field of the schema; names where nothing is said."""

REFUSED = frozenset({schema.CustomObjArgument, schema.InputToCustomObjSpec})
