"""Signatures that are enforced and calls that are recorded, as pybind11 does the first of them.

Annotations are what a test holds against the real bindings' own signatures; `Trace` is what it holds our calls against.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, ClassVar, SupportsFloat, SupportsInt

import numpy as np
from typing_extensions import Buffer


class Trace:
    """What was used, and what was asked for and is not there."""

    used: ClassVar[set[tuple[str, str]]] = set()
    missing: ClassVar[set[tuple[str, str]]] = set()


def bound(method: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments' number, names and types, and records the call."""
    signature = inspect.signature(method)
    owner, name = method.__qualname__.split(".")[-2:]

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        hints = typing.get_type_hints(method)
        for parameter, value in list(signature.bind(*args, **kwargs).arguments.items())[1:]:
            if not _accepted(hints[parameter], value):
                raise TypeError(
                    f"{name}(): incompatible function arguments: {parameter} must be {hints[parameter]}. Got {value!r}"
                )
        Trace.used.add((owner, name))
        return method(*args, **kwargs)

    return call


def _accepted(hint: Any, value: Any) -> bool:
    if hint is SupportsInt:
        return isinstance(value, (int, np.integer))
    if hint is SupportsFloat:
        return isinstance(value, (int, float, np.floating))
    if hint is Buffer:
        return isinstance(value, Buffer)
    options = typing.get_args(hint)
    if options:
        return any(_accepted(option, value) for option in options)
    if hint.__name__ == "Dims":  # converted from any sequence of numbers
        return not isinstance(value, str) and all(isinstance(size, (int, np.integer)) for size in value)
    return isinstance(value, hint)


class Bound:
    """Records attributes that are read, and those that are not there."""

    def __getattribute__(self, name: str) -> Any:
        kind = type(self)
        if not name.startswith("_") and isinstance(inspect.getattr_static(kind, name, None), property):
            owner = next(base for base in kind.__mro__ if name in vars(base))
            Trace.used.add((owner.__name__, name))
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            Trace.missing.add((type(self).__name__, name))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        known = inspect.getattr_static(type(self), name, None)
        if not name.startswith("_") and not isinstance(known, property):
            Trace.missing.add((type(self).__name__, name))
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        super().__setattr__(name, value)
