"""Captures what TensorRT says while it works, down to its severity VERBOSE, and prints nothing.

TensorRT keeps one logger for the whole process; a second one is ignored. Polygraphy owns it and hands every line to
its own logger, which can hand it on to Python's `logging`, where it is captured. Otherwise Polygraphy would print, and
stdout is for the result of a run alone.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Letters of the levels at which Polygraphy hands lines on. Its EXTRA_VERBOSE stands for TensorRT's VERBOSE, and its
# VERBOSE for TensorRT's INFO.
EXTRA_VERBOSE = 6
LETTERS = {EXTRA_VERBOSE: "V", logging.DEBUG: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "E"}
SHOWN = 3  # most errors in one message
RESTORED = ("use_python_logging_system", "module_severity", "colors", "letter", "timestamp", "line_info", "once_logged")


@dataclass
class BuildLog:
    """A log with lines in the form of trtexec, `[11/25/2026-07:51:00] [V] [TRT] …`.

    Polygraphy's own detailed lines carry `[TRT]`, too, because its logger does not tell them apart.

    Attributes:
        lines: The lines, in the order in which they came.
        messages: The same lines without their prefix.
        errors: Messages of severity ERROR alone, without the prefix.
    """

    lines: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The lines as the text of a file."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def complaint(self) -> str:
        """The first errors, joined in one line; empty where there are none."""
        return " ".join(" ".join(error.split()) for error in self.errors[:SHOWN])


class _Keep(logging.Handler):
    """Adds every record to a log."""

    def __init__(self, log: BuildLog) -> None:
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        letter = LETTERS.get(record.levelno, "I")
        mark = " [TRT]" if record.levelno in LETTERS else ""
        stamp = time.strftime("%m/%d/%Y-%H:%M:%S", time.localtime(record.created))
        self.log.lines.append(f"[{stamp}] [{letter}]{mark} {message}")
        self.log.messages.append(message)
        if record.levelno == logging.ERROR:
            self.log.errors.append(message)


@contextmanager
def capture_log() -> Iterator[BuildLog]:
    """Collects what TensorRT and Polygraphy say within the block, even if the block fails."""
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415 (optional)

    log, sink = BuildLog(), logging.getLogger("Polygraphy")
    handler = _Keep(log)
    before = {name: getattr(G_LOGGER, name) for name in RESTORED}
    level, propagate = sink.level, sink.propagate
    sink.addHandler(handler)
    sink.setLevel(1)
    sink.propagate = False
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
    G_LOGGER.colors = G_LOGGER.letter = G_LOGGER.timestamp = G_LOGGER.line_info = False
    G_LOGGER.once_logged = set()  # or the second engine's log would lack the warnings of the first's
    try:
        with warnings.catch_warnings():
            # Polygraphy saves timing caches through a context manager that TensorRT has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield log
    finally:
        for name, value in before.items():
            setattr(G_LOGGER, name, value)
        sink.removeHandler(handler)
        sink.setLevel(level)
        sink.propagate = propagate
