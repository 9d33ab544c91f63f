"""What is told on stderr: it is for people who may have closed it, and never ends or fails a run."""

import os
import sys
from contextlib import suppress
from typing import TextIO


class PatientStream:
    """A text stream to which writing never fails; what cannot be written is lost."""

    def __init__(self, stream: TextIO | None) -> None:
        """Wraps a stream; None stands for one that was closed before the program began."""
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes a text as far as the stream takes it."""
        with suppress(OSError, ValueError):  # full, hung up, or closed
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands on what was written."""
        with suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads it on a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False


def let_go_of_output() -> None:
    """Drops what stdout and stderr have not taken: the interpreter would try once more, and exit with another code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # it has no descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_stderr() -> PatientStream:
    """The process's stderr, as it is now."""
    return PatientStream(sys.stderr)
