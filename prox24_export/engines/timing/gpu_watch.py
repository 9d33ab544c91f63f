"""The GPU's state while it is timed, read beside the timing: a reading takes too long to wait for between two turns."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prox24_export.engines.timing.gpu_state import GpuState, GpuStateError, read

EVERY = 0.2  # seconds between two readings
Watch = Callable[[], GpuState]


@contextmanager
def watching(device: str = "0", reader: Callable[[str], GpuState] = read) -> Iterator[tuple[Watch | None, str]]:
    """A function that returns the latest reading, at once; None, and why, where the state cannot be read.

    Args:
        device: See `gpu_state.read`.
        reader: Reads it.
    """
    try:
        latest = [reader(device)]
    except GpuStateError as error:
        yield None, f"clocks and throttling are not known: {error}"
        return
    done = threading.Event()

    def follow() -> None:
        while not done.wait(EVERY):
            try:
                latest[0] = reader(device)
            except GpuStateError:
                return  # the latest reading stays: the figures do not depend on one more

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield lambda: latest[0], ""
    finally:
        done.set()
        thread.join()
