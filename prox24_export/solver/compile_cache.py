"""Keeps compiled kernels from one run to the next.

Numba's own choice is `__pycache__` beside the source. Inside an installed package those files outlive `pip uninstall`,
and the folder they leave behind then hides an editable install of the same name.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

CONFIG: Any = numba.config  # its attributes are made at run time
Decorator = Callable[[Callable[..., Any]], Any]


def find_cache_folder() -> Path:
    """The user's cache folder, or a temporary one where that cannot be written."""
    try:
        chosen = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prox24-export" / _kernel_version()
        chosen.mkdir(parents=True, exist_ok=True)
        if os.access(chosen, os.W_OK):
            return chosen
    except (OSError, RuntimeError):  # a home that is missing or cannot be written, as in some containers
        pass
    return Path(tempfile.gettempdir()) / f"prox24-export-{os.getuid()}"


@cache
def _kernel_version() -> str:
    """A digest of the sources of all kernels: numba checks only a function's own file, not those of what it calls."""
    digest = hashlib.sha256()
    for name in ("prox_math.py", "kernels_cpu.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


def cache_compiled(jit: Decorator) -> Decorator:
    """Makes the decorator `jit`, which must have `cache=True`, keep its files in `find_cache_folder()`.

    Where the environment variable NUMBA_CACHE_DIR names another folder, that one is used.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        before = CONFIG.CACHE_DIR
        try:
            CONFIG.CACHE_DIR = before or str(find_cache_folder())  # read when a function is decorated
            return jit(function)
        finally:
            CONFIG.CACHE_DIR = before

    return decorate
