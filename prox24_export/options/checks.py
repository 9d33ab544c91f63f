"""Settings that check themselves: types, choices and bounds of their fields, and options that do not exist."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from prox24_export.errors import InputError
from prox24_export.shapes import ShapeRange


class Bound(NamedTuple):
    """What the value of an option must be: in words, for its error message, and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


AT_LEAST_1 = Bound("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Bound("0 or more", lambda value: 0 <= value < math.inf)
POSITIVE = Bound("more than 0", lambda value: 0 < value < math.inf)
SHARE = Bound("between 0 and 1", lambda value: 0 <= value <= 1)
FUNCTION = Bound("module:function", lambda value: ":" in value)


SettingsClass = TypeVar("SettingsClass")


def refuse_unknown(kind: type[SettingsClass]) -> type[SettingsClass]:
    """Makes a class of settings refuse options that it does not have by an `InputError`, as it does wrong values."""
    plain = kind.__init__
    known = list(inspect.signature(kind).parameters)

    @functools.wraps(plain)
    def check_and_make(self: SettingsClass, *values: object, **options: object) -> None:
        if values:
            raise InputError(f"settings are given by name, such as {kind.__name__}({known[0]}=...). Got {values[0]!r}.")
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"Did you mean {near[0]}?" if near else f"The settings are: {', '.join(known)}."
                raise InputError(f"{name} is no setting of {kind.__name__}. {hint}")
        plain(self, **options)

    kind.__init__ = check_and_make  # type: ignore[method-assign, assignment]
    return kind


@dataclass(frozen=True, kw_only=True)
class CheckedSettings:
    """Settings that check their values when they are made."""

    def __post_init__(self) -> None:
        """Checks every field against its choices and its bound.

        Raises:
            InputError: A value is none of the choices, or outside its bound.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                _expect_allowed(f"--{option.name.replace('_', '-')}", option.type, value)


def _expect_allowed(option: str, annotated: Any, value: object) -> None:
    """Holds one value against the type, the `Literal` and the `Bound` that it is annotated with."""
    allowed, *notes = get_args(annotated)
    kinds = get_args(allowed) if get_origin(allowed) in {Union, UnionType} else (allowed,)
    for kind in (allowed, *get_args(allowed)):
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            expect(value in choices, option, f"one of {', '.join(choices)}", value)
    wanted = next(_find_words(kind)[0] for kind in kinds if kind is not NoneType)
    expect(any(_is_of(value, kind) for kind in kinds), option, wanted, repr(value))
    for note in notes:
        if isinstance(note, Bound):
            expect(note.holds(value), option, note.wanted, value)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type; what contains others is looked into."""
    return value is None if kind is NoneType else _find_words(kind)[1](value)


def _find_words(kind: Any) -> tuple[str, Callable[[Any], bool]]:
    """What a value of an annotated type is called, and how it is recognised."""
    return WORDS[kind] if kind in WORDS else WORDS[get_origin(kind) or kind]


def _is_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and (
            isinstance(shape, ShapeRange)
            or (isinstance(shape, (tuple, list)) and all(isinstance(size, int) for size in shape))
        )
        for name, shape in value.items()
    )


WORDS: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, (str, PathLike))),
    tuple[float, ...]: ("numbers", lambda _value: True),  # their bound tells how many, and which
    tuple: (
        "a tuple of globs",
        lambda value: isinstance(value, (tuple, list)) and all(isinstance(entry, str) for entry in value),
    ),
    Mapping: ("a dictionary of shapes, such as {'image': (1, 3, 224, 224)}", _is_shapes),
    Literal: ("one of its choices", lambda _value: True),  # told before
}
"""What a value of each type is called, and how it is recognised."""


def expect(holds: bool, option: str, wanted: str, got: object) -> None:
    """Expects something of the value of an option.

    Raises:
        InputError: It is not so.
    """
    if not holds:
        raise InputError(f"{option} must be {wanted}. Got {got}.")
