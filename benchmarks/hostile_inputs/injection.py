"""Faults that come from the system and not from a file: at the nth call something fails, or a signal comes."""

import builtins
import errno
import os
import resource
import signal
import sys
from types import FrameType
from typing import Any

from prox24_export import cli

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES, "EROFS": errno.EROFS}
OURS = ("prox24_export", "passes")


class Countdown:
    """Raises at the nth step."""

    def __init__(self, kind: str, at: int) -> None:
        """Counts `at` steps before an error of the kind `kind`."""
        self.kind, self.left = kind, at

    def step(self) -> None:
        """Counts one, and fails or sends a signal where it is the last."""
        self.left -= 1
        if self.left:
            return
        if self.kind == "SIGINT":
            signal.raise_signal(signal.SIGINT)
        elif self.kind in ERRORS:
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), "injected")
        else:
            raise getattr(builtins, self.kind)("injected")


def inject(spec: str) -> None:
    """Makes this process fail as `spec` says, from now on.

    Args:
        spec: `event:kind:n`. Events are `limit` (bytes of a file, or open files, that the system allows: kinds `size`
            and `files`), `call` (the nth call of a function of this program), an event of Python's audit (`open`,
            `os.mkdir`, …), `fsync`, and `session` (an inference session of ONNX Runtime). Empty for none.
    """
    if not spec:
        return
    event, kind, text = spec.split(":")
    countdown = Countdown(kind, int(text))
    main = cli.main

    def begin(arguments: list[str] | None = None) -> int:
        _start(event, countdown)
        return main(arguments)

    cli.main = begin  # what comes before it has no user's file to read


def _start(event: str, countdown: Countdown) -> None:
    if event == "limit":
        which = resource.RLIMIT_FSIZE if countdown.kind == "size" else resource.RLIMIT_NOFILE
        resource.setrlimit(which, (countdown.left, countdown.left))
    elif event == "call":
        _watch_calls(countdown)
    elif event == "fsync":
        _wrap(os, "fsync", countdown)
    elif event == "session":
        import onnxruntime  # noqa: PLC0415 - slow, and only here

        _wrap(onnxruntime, "InferenceSession", countdown)
    else:
        sys.addaudithook(lambda name, _arguments: countdown.step() if name == event and not _is_loading() else None)


def _is_loading() -> bool:
    """Whether Python loads a module: its files are none of the user's."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - as the traceback module does
    while frame is not None:
        if "importlib" in str(frame.f_globals.get("__name__")):
            return True
        frame = frame.f_back
    return False


def _watch_calls(countdown: Countdown) -> None:
    def watch(frame: FrameType, event: str, _value: Any) -> None:
        if event == "call" and str(frame.f_globals.get("__name__")).startswith(OURS):
            try:
                countdown.step()
            except BaseException:
                sys.setprofile(None)
                raise

    sys.setprofile(watch)


def _wrap(module: Any, name: str, countdown: Countdown) -> None:
    real = getattr(module, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        countdown.step()
        return real(*arguments, **options)

    setattr(module, name, wrapped)
