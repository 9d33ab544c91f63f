"""The GPU's state while models are timed, read in a thread: between two turns, a reading would take too long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prox24_export.engines.timing.gpu_state import GpuState, GpuStateError, read_state

EVERY = 0.2  # seconds between two readings
Watch = Callable[[], GpuState]


@contextmanager
def follow_state(
    device: str = "0", reader: Callable[[str], GpuState] = read_state
) -> Iterator[tuple[Watch | None, str]]:
    """Reads the state of a GPU again and again while the block runs.

    Args:
        device: The GPU; see `gpu_state.read_state`.
        reader: Reads the state of a GPU.

    Yields:
        A function that returns the latest reading at once, and an empty text; or, where the state cannot be read, None
        and the reason.
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
