"""Keeps what compiled code writes to stdout and stderr from the command's output: it passes by Python's own streams."""

import contextlib
import os
from collections.abc import Iterator

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def silence_native_output() -> Iterator[None]:
    """Lets nothing that is written to file descriptors 1 and 2 be seen while the block runs.

    Where a descriptor is closed, or PROX24_TRACEBACK asks for all, nothing changes.
    """
    with contextlib.ExitStack() as silenced:
        for descriptor in () if os.environ.get("PROX24_TRACEBACK") else (STDOUT, STDERR):
            silenced.enter_context(_silence(descriptor))
        yield


@contextlib.contextmanager
def _silence(descriptor: int) -> Iterator[None]:
    try:
        kept = os.dup(descriptor)
    except OSError:  # closed, or no descriptor is left
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, descriptor)
        finally:
            os.close(nowhere)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
