"""Where compiled kernels are kept from one run to the next.

Numba's own choice is `__pycache__` beside the source. Inside an installed package those files outlive `pip uninstall`,
and the folder they leave behind then hides an editable install of the same name.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

CONFIG: Any = numba.config  # its attributes are made at run time
Decorator = Callable[[Callable[..., Any]], Any]


def folder() -> Path:
    """The user's cache folder; numba falls back to others where it cannot be written."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in some containers
        base = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return base / "prox24-export"


def kept(jit: Decorator) -> Decorator:
    """The decorator `jit`, with `cache=True`, keeping its files in `folder()` unless NUMBA_CACHE_DIR says otherwise."""

    def decorate(function: Callable[..., Any]) -> Any:
        before = CONFIG.CACHE_DIR
        try:
            CONFIG.CACHE_DIR = before or str(folder())  # read when a function is decorated
            return jit(function)
        finally:
            CONFIG.CACHE_DIR = before

    return decorate
