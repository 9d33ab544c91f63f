"""`module:function` of the user's: imported from the current folder first."""

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prox24_export.errors import InputError

T = TypeVar("T")


def run(spec: str, option: str, wanted: str, use: Callable[[Callable[..., Any]], T]) -> T:
    """Gives the function that `module:function` names to `use`; what it prints goes to stderr, stdout is the result's.

    Args:
        spec: `module:function`.
        option: How messages name it, e.g. `--calibration`.
        wanted: What the function should do, for messages.
        use: Calls it, and runs what it returns where that is a generator.

    Raises:
        InputError: It cannot be imported, or fails.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    module, _, name = spec.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return use(getattr(importlib.import_module(module), name))
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{option} {spec} failed: {type(error).__name__}: {error}. "
            f"Expected module:function, importable from here, that {wanted}."
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
