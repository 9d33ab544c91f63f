"""What counts as a finding: whatever a stranger's bytes bring about beside one of this program's own errors."""

import logging
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from prox24_export.errors import Prox24Error

MOST_SECONDS = 20.0  # of processor time for one input
MOST_MEMORY = 1 << 30  # bytes that one input may add
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")  # what drives a terminal; tabs and line ends do not
PAGE = resource.getpagesize()
UNIT = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`

Check = Callable[[bytes], object]
"""What a target does with one input; the program's own errors may come out of it."""


class FindingError(AssertionError):
    """An input that takes too long or too much memory, or a warning that could drive a terminal."""


class _Told(logging.Handler):
    """Keeps what is logged at WARNING or above, which Python prints where nobody else takes it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def try_input(check: Check, data: bytes) -> str:
    """Runs a target on one input.

    Args:
        check: The target.
        data: The input.

    Returns:
        The message of the program's own error that the input ended in; empty where it was read.

    Raises:
        FindingError: It took more than `MOST_SECONDS` or `MOST_MEMORY`, or warned with raw control characters.
        Exception: Whatever else came out of the target.
    """
    told, message = _Told(), ""
    root = logging.getLogger()
    root.addHandler(told)
    began, before, peak = time.process_time(), _read_memory(), _read_peak()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                check(data)
            except Prox24Error as error:
                message = str(error) or "an error without a message"
    finally:
        root.removeHandler(told)
    seconds, highest = time.process_time() - began, _read_peak()
    if seconds > MOST_SECONDS:
        raise FindingError(f"{seconds:.0f} seconds of processor time for {len(data):,} bytes")
    if highest > peak and highest - before > MOST_MEMORY:  # a peak that stood before is that of another input
        raise FindingError(f"{(highest - before) >> 20:,} MB of memory for {len(data):,} bytes")
    for text in (*told.messages, *(str(warning.message) for warning in warned)):
        if CONTROL.search(text):
            raise FindingError(f"a warning with raw control characters: {text!r:.200}")
    return message


def _read_memory() -> int:
    """Reads the bytes that this process has in memory now; its peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE
    except OSError:
        return _read_peak()


def _read_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
