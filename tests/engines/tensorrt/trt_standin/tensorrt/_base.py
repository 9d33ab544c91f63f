"""Dims, host memory, loggers, profiler."""

import warnings
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, SupportsFloat

from . import _enums as enums
from ._bound import Bound, bound


class Dims:
    """No tuple, and comparable with lists and tuples alone: comparing two of them is a TypeError in the bindings."""

    def __init__(self, shape: Iterable[int] = ()) -> None:
        self._sizes = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, tuple)):
            raise TypeError("__eq__(): incompatible function arguments.")
        return self._sizes == tuple(other)

    __hash__ = None  # type: ignore[assignment] # as any class with an __eq__ alone

    def __str__(self) -> str:
        return str(self._sizes)


class IHostMemory(bytes):
    """Memory of TensorRT's own, with the buffer protocol."""

    @property
    def nbytes(self) -> int:
        return len(self)

    def __enter__(self) -> Self:
        warnings.warn("Context managers for TensorRT types are deprecated.", DeprecationWarning, stacklevel=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class ILogger(Bound):
    Severity = enums.Severity
    INTERNAL_ERROR = enums.Severity.INTERNAL_ERROR
    ERROR = enums.Severity.ERROR
    WARNING = enums.Severity.WARNING
    INFO = enums.Severity.INFO
    VERBOSE = enums.Severity.VERBOSE
    first: "ILogger | None" = None

    @bound
    def __init__(self) -> None:
        ILogger.first = ILogger.first or self

    @bound
    def log(self, severity: enums.Severity, msg: str) -> None:
        raise NotImplementedError("a logger must override log()")


class Logger(ILogger):
    """TensorRT's own; Polygraphy reads severities off it."""


def say(logger: ILogger, severity: str, message: str) -> None:
    """A message to the first logger of the process, whichever was given: TensorRT keeps that one."""
    (ILogger.first or logger).log(enums.Severity[severity], message)


class IProfiler(Bound):
    """A trampoline: without its own `__init__` the bindings would crash."""

    @bound
    def __init__(self) -> None:
        object.__setattr__(self, "_ready", True)

    @bound
    def report_layer_time(self, layer_name: str, ms: SupportsFloat) -> None:
        raise NotImplementedError("a profiler must override report_layer_time()")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # Python subclasses may have attributes
