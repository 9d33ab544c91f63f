"""Signals that end a run: SIGINT, SIGTERM and SIGHUP clean up like an exception, and are never lost.

A handler that only raises is not enough: where compiled code calls back into Python, it may swallow the exception and
go on. The handler therefore notes the signal first, and `raise_if_interrupted`, which runs between stages and at every
step of a stage, raises once more.

Handlers of the user's own program stay in place, and so does a signal that is ignored, as `nohup` ignores SIGHUP.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


@dataclass
class _State:
    """What is known of signals in this process.

    Attributes:
        caught: The signal that came first; None where none came.
        held: How many blocks are being run that a signal must not cut short.
        finished: The output folder that is complete, so that nothing is left to be interrupted; None before that.
        replaced: The handlers that were there before, by signal; empty while no signal is caught.
    """

    caught: int | None = None
    held: int = 0
    finished: Path | None = None
    replaced: dict[int, Any] = field(default_factory=dict)


_state = _State()


@contextmanager
def catch_signals(*, deliver: bool = True) -> Iterator[None]:
    """Catches signals while the block runs. Within another such block, and outside the main thread, it does nothing.

    Args:
        deliver: Whether a signal still has its own effect when the block has cleaned up: SIGTERM and SIGHUP then end
            the process, and a SIGINT that came too late to interrupt anything raises KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    if _state.replaced or threading.current_thread() is not threading.main_thread():
        yield
        return
    start_catching()
    try:
        yield
    finally:
        caught = stop_catching()
        if deliver and caught is not None and (caught != signal.SIGINT or _state.finished is not None):
            signal.raise_signal(caught)


def start_catching() -> None:
    """Takes the place of the default handlers, and forgets what was caught before."""
    _state.caught, _state.held, _state.finished = None, 0, None
    for number in SIGNALS:
        if signal.getsignal(number) in DEFAULTS:
            _state.replaced[number] = signal.signal(number, _note)


def stop_catching() -> int | None:
    """Puts the default handlers back, and returns the signal that was caught; None where there was none."""
    for number, handler in _state.replaced.items():
        signal.signal(number, handler)
    _state.replaced.clear()
    return _state.caught


def raise_if_interrupted() -> None:
    """Raises KeyboardInterrupt where a signal was caught, even if its first exception was swallowed."""
    if _state.caught is not None and not _state.held and _state.finished is None:
        raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Whether a signal came before the output was complete."""
    return _state.caught is not None and _state.finished is None


@contextmanager
def hold_signals() -> Iterator[None]:
    """Lets no signal cut the block short, because a half-done step would leave something behind."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1


def mark_finished(out: Path) -> None:
    """Notes that the output folder is complete. From now on only a second signal ends the program."""
    _state.finished = out


def finished_output() -> Path | None:
    """The output folder that is complete; None where there is none."""
    return _state.finished


def _note(number: int, _frame: FrameType | None) -> None:
    first = _state.caught is None
    _state.caught = number if first else _state.caught
    if not _state.held and (_state.finished is None or not first):
        raise KeyboardInterrupt
