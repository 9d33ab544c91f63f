"""Signals that end a run: SIGINT, SIGTERM and SIGHUP clean up like an exception, and are never lost.

A handler that only raises is not enough: where compiled code calls back into Python, it may swallow the exception, or
make another error of it, and go on. The handler therefore notes the signal first, and `raise_if_interrupted`, which
runs between stages and at every step of a stage, raises once more.

Handlers of the user's own program stay in place, and so does a signal that is ignored, as `nohup` ignores SIGHUP. All
of this concerns the main thread, in which alone Python handles signals.
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


class Interrupted(KeyboardInterrupt):
    """A signal came.

    The interpreter ends itself by SIGINT, whatever the exit code, once a plain KeyboardInterrupt has left the text that
    `exec` runs, even if it was caught afterwards; libraries run much by `exec` while they load.
    """


@dataclass
class _State:
    """What is known of signals in the main thread.

    Attributes:
        caught: The signal that came first; None where none came.
        held: How many blocks are being run that a signal must not cut short.
        finished: The output folder that is complete, so that nothing is left to be interrupted; None before that.
        resumable: How to go on with what is done, in words; None while there is nothing to go on with.
        replaced: The handlers that were there before, by signal; empty while no signal is caught.
    """

    caught: int | None = None
    held: int = 0
    finished: Path | None = None
    resumable: str | None = None
    replaced: dict[int, Any] = field(default_factory=dict)


_state = _State()


@contextmanager
def catch_signals(*, deliver: bool = True) -> Iterator[None]:
    """Catches signals while the block runs. Within another such block, and outside the main thread, it does nothing.

    Args:
        deliver: Whether a signal still has its own effect when the block has cleaned up: SIGTERM and SIGHUP then end
            the process, and a SIGINT that came too late to interrupt anything raises KeyboardInterrupt.

    Raises:
        Interrupted: A signal came before the output was complete, whatever compiled code has made of it.
    """
    if _state.replaced or not _is_main_thread():
        yield
        return
    start_catching()
    try:
        yield
        raise_if_interrupted()
    except Exception as error:
        if was_interrupted():
            raise Interrupted from error
        raise
    finally:
        caught = stop_catching()
        if deliver and caught is not None and (caught != signal.SIGINT or _state.finished is not None):
            signal.raise_signal(caught)


def start_catching() -> None:
    """Takes the place of the default handlers, and forgets what was known before."""
    _state.caught, _state.held, _state.finished, _state.resumable = None, 0, None, None
    for number in SIGNALS:
        if signal.getsignal(number) in DEFAULTS:
            _state.replaced[number] = signal.signal(number, _note)


def stop_catching() -> int | None:
    """Puts the default handlers back, and returns the signal that was caught; None where there was none."""
    for number, handler in _state.replaced.items():
        signal.signal(number, handler)
    _state.replaced.clear()
    caught, _state.caught, _state.held = _state.caught, None, 0
    return caught


def raise_if_interrupted() -> None:
    """Raises Interrupted where a signal was caught, even if its first exception was swallowed."""
    if _is_main_thread() and was_interrupted() and not _state.held:
        raise Interrupted


def was_interrupted() -> bool:
    """Whether a signal came before the output was complete."""
    return _state.caught is not None and _state.finished is None


@contextmanager
def hold_signals() -> Iterator[None]:
    """Lets no signal cut the block short, because a half-done step would leave something behind."""
    step = 1 if _is_main_thread() else 0
    _state.held += step
    try:
        yield
    finally:
        _state.held -= step


def mark_finished(out: Path) -> None:
    """Notes that the output folder is complete. From now on only a second signal ends the program."""
    if _is_main_thread():
        _state.finished = out


def finished_output() -> Path | None:
    """The output folder that is complete; None where there is none."""
    return _state.finished


def mark_resumable(how: str | None) -> None:
    """Notes how a later run can go on with what this one has done; None where it cannot."""
    if _is_main_thread():
        _state.resumable = how


def how_to_resume() -> str | None:
    """How a later run can go on with what this one has done, in words; None where it cannot."""
    return _state.resumable


def ignore_signals() -> None:
    """Ignores signals for the rest of the process, because the outcome stands and what is left is to go."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _note(number: int, _frame: FrameType | None) -> None:
    first = _state.caught is None
    _state.caught = number if first else _state.caught
    if not _state.held and (_state.finished is None or not first):
        raise Interrupted
