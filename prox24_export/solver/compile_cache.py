"""Keeps compiled kernels from one run to the next.

Numba's own choice is `__pycache__` beside the source. Inside an installed package those files outlive `pip uninstall`,
and the folder they leave behind then hides an editable install of the same name.

The index of such a cache is a pickle: whoever can write it runs code in the next run. Only a folder that nobody else
can write to is used.
"""

import atexit
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba

CONFIG: Any = numba.config  # its attributes are made at run time
Decorator = Callable[[Callable[..., Any]], Any]
OTHERS = stat.S_IWGRP | stat.S_IWOTH
COMMON = "common"
TELLS_BY_DIGEST = (0, 68)  # the version of numba


def find_cache_folder() -> Path:
    """The user's cache folder; a private one that is removed at exit where others can write to that, or nobody can."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        chosen = base / "prox24-export" / _kernel_version()
        for folder in (chosen.parent, chosen):
            folder.mkdir(mode=0o700, exist_ok=True)
        above = (base, base.resolve(), *base.resolve().parents)
        if _is_own(chosen.parent) and _is_own(chosen) and all(map(_is_kept, above)) and os.access(chosen, os.W_OK):
            return chosen
    except (OSError, RuntimeError):  # a home that is missing or cannot be written, as in some containers
        pass
    return _make_temporary_folder()


def _is_own(folder: Path) -> bool:
    """Whether this is a folder of this user, no link, that nobody else can write to."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & OTHERS


def _is_kept(folder: Path) -> bool:
    """Whether nobody but this user and the administrator can put another folder in the place of one in this folder.

    That is so where others cannot write, or only add to it, as in `/tmp`. A group that has the user's own number is
    taken to be the user's alone.
    """
    owners = {os.getuid(), 0}
    found = folder.stat()
    others = stat.S_IWOTH if found.st_gid in {os.getuid(), 0} else OTHERS
    kept = not found.st_mode & others or bool(found.st_mode & stat.S_ISVTX)
    return kept and {folder.lstat().st_uid, found.st_uid} <= owners


@cache
def _make_temporary_folder() -> Path:
    """Makes a folder of this process alone, under a name that nobody can know before."""
    folder = tempfile.mkdtemp(prefix="prox24-export-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _kernel_version() -> str:
    """A digest of the sources of all kernels: numba checks only a function's own file, not those of what it calls."""
    digest = hashlib.sha256()
    for name in ("prox_math.py", "kernels_cpu.py", "kernels_refine.py", "exchange.py", "rounding.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


def measure_cache() -> tuple[Path, int]:
    """Measures what is kept, of this version and of others.

    Returns:
        The folder, which `NUMBA_CACHE_DIR` may name, and the bytes of the files in it.
    """
    folder = Path(CONFIG.CACHE_DIR) if CONFIG.CACHE_DIR else _find_all_versions()
    return folder, sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def clear_cache() -> bool:
    """Removes what is kept, of this version and of others; returns whether it did.

    A folder that `NUMBA_CACHE_DIR` names may hold what others have compiled, and stays.

    Raises:
        OSError: It cannot be removed.
    """
    if CONFIG.CACHE_DIR:
        return False
    shutil.rmtree(_find_all_versions())
    return True


def _find_all_versions() -> Path:
    """The folder that holds those of all versions, or the private one of this process."""
    folder = find_cache_folder()
    return folder.parent if folder.parent.name == "prox24-export" else folder


def cache_compiled(jit: Decorator) -> Decorator:
    """Makes the decorator `jit`, which must have `cache=True`, keep its files in `find_cache_folder()`.

    Where the environment variable NUMBA_CACHE_DIR names another folder, that one is used.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        before = CONFIG.CACHE_DIR
        try:
            CONFIG.CACHE_DIR = before or str(find_cache_folder())  # read when a function is decorated
            compiled = jit(function)
        finally:
            CONFIG.CACHE_DIR = before
        if not before and hasattr(compiled, "stats"):
            _share(Path(compiled.stats.cache_path))
        return compiled

    return decorate


def _share(folder: Path) -> None:
    """Lets a folder of compiled kernels be a link to one that all installations with the same sources share.

    Numba names the folder after the path of the source. By a digest of its text it knows whose what is kept there is.
    """
    if tuple(map(int, numba.__version__.split(".")[:2])) < TELLS_BY_DIGEST or folder.is_symlink():
        return
    with suppress(OSError):  # a folder with files in it, or a file system without links: numba's own is as good
        folder.with_name(COMMON).mkdir(mode=0o700, exist_ok=True)
        folder.rmdir()
        folder.symlink_to(COMMON, target_is_directory=True)
