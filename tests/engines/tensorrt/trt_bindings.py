"""The real bindings on a machine without TensorRT: a wheel, three stub libraries, and a process of its own.

`PROX24_TRT_BINDINGS` names a folder with wheels as `pip download --no-deps tensorrt_cu13_bindings==VERSION` gets them.
They import once libnvinfer, libnvinfer_plugin and libnvonnxparser are there; names, enumerations and signatures are the
real ones then, while no object can be made.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

VARIABLE = "PROX24_TRT_BINDINGS"
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
DUMP = """
import json, sys, tensorrt_bindings as trt

def member(value):
    if isinstance(value, property):
        return {"property": value.fget.__doc__ or "", "writable": value.fset is not None}
    return {"doc": value.__doc__ or ""} if callable(value) else {"value": str(value)}

found = {"version": trt.__version__, "functions": {}, "classes": {}, "enumerations": {}}
for name, value in vars(trt).items():
    if isinstance(value, type):
        found["classes"][name] = {}
        for base in reversed(value.__mro__[:-1]):
            found["classes"][name] |= {key: member(entry) for key, entry in vars(base).items()}
        if hasattr(value, "__members__"):
            found["enumerations"][name] = {key: int(entry) for key, entry in value.__members__.items()}
    elif callable(value):
        found["functions"][name] = value.__doc__ or ""
json.dump(found, sys.stdout)
"""


class Parameter(NamedTuple):
    """One parameter of a signature, self left out."""

    name: str
    kind: str
    optional: bool


class Signature(NamedTuple):
    """Parameters and what is returned."""

    parameters: tuple[Parameter, ...]
    returns: str


@dataclass(frozen=True)
class Bindings:
    """What a wheel offers, and how to run code with it."""

    version: str
    classes: dict[str, dict[str, dict[str, Any]]]
    enumerations: dict[str, dict[str, int]]
    functions: dict[str, str]
    environment: dict[str, str]

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def has(self, owner: str, name: str) -> bool:
        """Whether a class, or where `owner` is empty the module, has a name."""
        if not owner:
            return name in self.classes or name in self.functions
        return name in self.classes.get(owner, {}) or name in self.enumerations.get(owner, {})

    def signatures(self, owner: str, name: str) -> tuple[Signature, ...]:
        return signatures(self.classes[owner][name]["doc"], name)

    def run(self, code: str) -> str:
        """What Python code prints that finds the bindings as `trt`."""
        return _run(f"import tensorrt_bindings as trt\n{code}", self.environment)


def bindings(major: int, folder: Path) -> Bindings:
    """Unpacked into `folder`; the test is skipped where wheel or compiler is missing."""
    place = os.environ.get(VARIABLE)
    if not place:
        pytest.skip(f"no bindings: set {VARIABLE} to a folder with the wheels that .ci/run downloads")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = next(iter(sorted(Path(place).glob(f"tensorrt_cu*_bindings-{major}.*-{tag}-*.whl"))), None)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if wheel is None or compiler is None:
        pytest.skip(f"no wheel of TensorRT {major} for {tag} in {place}" if wheel is None else "no C compiler")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for library in LIBRARIES:
        _stub(compiler, folder / f"{library}.so.{major}", SYMBOLS if library == LIBRARIES[0] else ())
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    found = json.loads(_run(DUMP, environment))
    return Bindings(**found, environment=environment)


def signatures(doc: str, name: str) -> tuple[Signature, ...]:
    """What pybind11 writes into `__doc__`, overloads one by one."""
    lines = [re.sub(r"^\d+\.\s*", "", line.strip()) for line in doc.splitlines()]
    lines = [line for line in lines if line.startswith(f"{name}(") and "*args" not in line]
    return tuple(_signature(line[len(name) :]) for line in lines)


def stand_in_signatures(method: Callable[..., Any]) -> Iterator[Signature]:
    """The same of a method of the stand-in: one for each choice from its unions."""
    hints = typing.get_type_hints(method)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    options = [[_named(option) for option in _options(hints[parameter.name])] for parameter in parameters]
    returns = [option for option in _options(hints["return"]) if option is not type(None)] or [None]
    for kinds in product(*options):
        entries = [
            Parameter(parameter.name, kind, parameter.default is not inspect.Parameter.empty)
            for parameter, kind in zip(parameters, kinds, strict=True)
        ]
        yield Signature(tuple(entries), "None" if returns[0] in (None, type(None)) else _named(returns[0]))


def accepts(real: Signature, ours: Signature) -> bool:
    """Whether every call that `ours` takes is one that `real` takes, and gives the same back."""
    pairs = list(zip(real.parameters, ours.parameters, strict=False))
    same = all(a.name == b.name and a.kind == b.kind and a.optional >= b.optional for a, b in pairs)
    rest = real.parameters[len(ours.parameters) :]
    enough = len(real.parameters) >= len(ours.parameters)
    return same and enough and all(parameter.optional for parameter in rest) and real.returns == ours.returns


def _signature(text: str) -> Signature:
    inside, _, returns = text.rpartition(") -> ")
    parts = _split(inside[1:])
    found = []
    for part in parts[1:] if parts and re.match(r"(self|arg0): ", parts[0]) else parts:
        declared, equals, _ = part.partition(" = ")
        name, _, kind = declared.partition(": ")
        found.append(Parameter(name, _short(kind), bool(equals)))
    return Signature(tuple(found), _short(returns))


def _split(text: str) -> list[str]:
    """At commas outside brackets; a default such as `<Severity.WARNING: 2>` has none."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "[(<") - (sign in "])>")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _short(kind: str) -> str:
    """`tensorrt_bindings.tensorrt.ILogger.Severity` → `Severity`, `nvonnxparser::IParserError` → `ParserError`."""
    short = re.sub(r"\w+(?:(?:\.|::)\w+)*(?:\.|::)(\w+)", r"\1", kind.strip())
    return short.replace("IParserError", "ParserError")


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _named(hint: Any) -> str:
    arguments = typing.get_args(hint)
    name = str(getattr(hint, "__name__", hint))
    return f"{name}[{', '.join(_named(argument) for argument in arguments)}]" if arguments else name


def _stub(compiler: str, place: Path, symbols: tuple[str, ...]) -> None:
    code = "".join(f"void* {symbol}(void) {{ return 0; }}\n" for symbol in symbols) or "int nothing;\n"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(place), f"-Wl,-soname,{place.name}"]
    subprocess.run(command, input=code, text=True, check=True)


def _run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
