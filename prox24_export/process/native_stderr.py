"""Keeps what compiled code writes to stderr from the command's output: it passes by Python's own stream."""

import contextlib
import os
from collections.abc import Iterator

STDERR = 2


@contextlib.contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Lets nothing that is written to file descriptor 2 be seen while the block runs.

    Where the descriptor is closed, or PROX24_TRACEBACK asks for all, nothing changes.
    """
    try:
        kept = -1 if os.environ.get("PROX24_TRACEBACK") else os.dup(STDERR)
    except OSError:  # closed, or no descriptor is left
        kept = -1
    if kept < 0:
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, STDERR)
        finally:
            os.close(nowhere)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
