"""Every pass has the shape that the package's docstring describes."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import prox24_export.passes

FOLDER = Path(__file__).resolve().parents[2] / "passes"
PACKAGE = "prox24_export.passes"
THE_CHECK = {"VerifyPattern"}  # this pass is itself what is not cheap to check


def passes() -> dict[str, type]:
    """Every public class of the passes that has a method `call`, by name."""
    found = {}
    for file in sorted(FOLDER.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(getattr(entry, "name", "") == "call" for entry in node.body):
                module = ".".join((PACKAGE, *file.relative_to(FOLDER).with_suffix("").parts))
                found[node.name] = getattr(importlib.import_module(module), node.name)
    return found


def faults(kind: type) -> Iterator[str]:
    """What is wrong with the shape of a pass."""
    if not is_frozen(kind):
        yield "is no frozen dataclass"
        return
    if any(
        entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        for entry in dataclasses.fields(kind)
    ):
        yield "has a setting without a default"
    call: Any = kind.call  # type: ignore[attr-defined]
    parameters = list(inspect.signature(call).parameters.values())[1:]
    if any(parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in parameters):
        yield "takes inputs by position"
    result = get_type_hints(call)["return"]
    if get_origin(result) is not None:
        (result,) = get_args(result)
    if not is_frozen(result):
        yield "returns no frozen result object"
    checks = {name for name in ("requires", "ensures") if hasattr(kind, name)}
    if kind.__name__ not in THE_CHECK and not checks:
        yield "checks nothing"
    if unused := {name for name in checks if f"self.{name}(" not in inspect.getsource(call)}:
        yield f"never calls {', '.join(sorted(unused))}"


def is_frozen(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and bool(getattr(kind, "__dataclass_params__").frozen)  # noqa: B009 - mypy knows no such name


def test_every_pass_has_the_shape() -> None:
    assert {name: found for name, kind in passes().items() if (found := list(faults(kind)))} == {}


def test_the_docstring_of_the_package_names_every_pass() -> None:
    walk = (prox24_export.passes.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", walk)) == passes().keys()


@dataclass
class Thawed:
    def call(self) -> None: ...


@dataclass(frozen=True)
class Outcome: ...


@dataclass(frozen=True)
class Positional:
    size: int

    def call(self, graph: int) -> int: ...  # type: ignore[empty-body]


@dataclass(frozen=True)
class Forgetful:
    def call(self, *, graph: int) -> Outcome: ...  # type: ignore[empty-body]

    def ensures(self) -> None: ...


@dataclass(frozen=True)
class Right:
    size: int = 1

    def call(self, *, graph: int) -> Iterator[Outcome]:
        self.requires(graph)
        yield Outcome()

    def requires(self, graph: int) -> None: ...


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Thawed, ["is no frozen dataclass"]),
        (
            Positional,
            [
                "has a setting without a default",
                "takes inputs by position",
                "returns no frozen result object",
                "checks nothing",
            ],
        ),
        (Forgetful, ["never calls ensures"]),
        (Right, []),
    ],
)
def test_the_test_of_shapes_can_fail(kind: type, wrong: list[str]) -> None:
    assert list(faults(kind)) == wrong
