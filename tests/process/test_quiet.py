"""Libraries say nothing in the command's output, and everything where the user asks for tracebacks."""

import subprocess
import sys

import pytest

NOISY = """\
import ctypes, logging, sys, warnings
from prox24_export.process.quiet import silence_libraries
silence_libraries()
warnings.warn("a warning of a library")
logging.getLogger("torch.export").error("an error that torch logs")

@ctypes.PYFUNCTYPE(None)
def callback():
    raise KeyboardInterrupt

callback()
sys.stderr.write("our sentence\\n")
"""


@pytest.mark.parametrize(("traceback", "is_quiet"), [("", True), ("1", False)])
def test_only_our_sentences_are_left_unless_tracebacks_are_asked_for(traceback: str, is_quiet: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY],
        capture_output=True,
        text=True,
        check=True,
        env={"PROX24_TRACEBACK": traceback, "PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stderr == "our sentence\n") is is_quiet
    if not is_quiet:
        assert "a warning of a library" in done.stderr
        assert "an error that torch logs" in done.stderr
        assert "KeyboardInterrupt" in done.stderr


def test_the_error_of_another_callback_is_still_told() -> None:
    code = NOISY.replace("raise KeyboardInterrupt", "raise ValueError('of a callback')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ValueError: of a callback" in done.stderr
