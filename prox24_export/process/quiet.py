"""Keeps what libraries say from the command's output: users get our sentences, which say what to do."""

import logging
import os
import sys
import warnings
from typing import Any


def silence_libraries() -> None:
    """Silences warnings and logs of libraries for the rest of the process, unless PROX24_TRACEBACK asks for all.

    What a KeyboardInterrupt leaves in a callback of compiled code is silenced, too: it is noted, and raised again.
    """
    if os.environ.get("PROX24_TRACEBACK"):
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # read when torch is loaded
    say = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            say(unraisable)

    sys.unraisablehook = hook
