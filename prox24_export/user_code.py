"""Functions of the user's, given as `module:function` and imported from the current folder first."""

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prox24_export.errors import InputError

T = TypeVar("T")


def call_function(spec: str, option: str, wanted: str, use: Callable[[Callable[..., Any]], T]) -> T:
    """Imports a function of the user's and has it called; what it prints goes to stderr, since stdout is for results.

    Args:
        spec: The function, as `module:function`.
        option: The option that named it, for messages, e.g. `--calibration`.
        wanted: What the function should do, for messages, e.g. `yields feed dictionaries`.
        use: Calls the function, and runs what it returns where that is a generator.

    Returns:
        What `use` returns.

    Raises:
        InputError: The function cannot be imported, or fails; or `use` refuses what it returns.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    module, _, name = spec.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return use(getattr(importlib.import_module(module), name))
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{option} {spec} failed: {type(error).__name__}: {error}. "
            f"Expected module:function, importable from here, that {wanted}."
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
