"""What a report says of the machine, the versions and the files of a run, and how much memory the process takes."""

import contextlib
import ctypes
import hashlib
import os
import platform
import resource
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prox24_export.results.report import FileFacts

PACKAGES = ("prox24-export", "torch", "onnx", "onnx-ir", "onnxruntime", "numpy", "numba")
OPTIONAL = ("transformers", "safetensors", "triton")
CHUNK = 1 << 20
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 4 << 20  # malloc.h; bytes


def describe_file(path: Path, shown: Path) -> FileFacts:
    """Measures the size of a file, or of all files of a directory, and computes their SHA-256 digest.

    Args:
        path: The file or directory; names of files in a directory are part of its digest.
        shown: The name to report it under.

    Raises:
        OSError: A file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        size += file.stat().st_size
        with file.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
    return FileFacts(str(shown), size, digest.hexdigest())


def list_versions() -> dict[str, str]:
    """Lists the versions of Python and of every package that takes part, by name."""
    there = [name for name in OPTIONAL if find_spec(name) is not None]
    return {"python": platform.python_version()} | {name: version(name) for name in (*PACKAGES, *there)}


def describe_machine() -> dict[str, Any]:
    """Describes the machine that the figures are measured on: system, processor and number of cores."""
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}


def return_free_memory() -> None:
    """Gives freed pages back to the system: glibc keeps those of arrays below 32 MB, which add up."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_no_large_blocks() -> None:
    """Lets glibc return every freed block of 4 MB or more at once, for the rest of the process.

    By itself it raises this threshold to 32 MB as soon as a larger block is freed; what it then keeps of smaller ones
    lies between arrays that live longer, and came to 280 MB beside a model of which only a block is in memory. It
    costs page faults, so it is for models that are read in pieces.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def measure_resident_mb() -> float:
    """Measures the resident size of this process now, in MB (2²⁰ bytes); the largest so far where it is unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return measure_peak_mb()
    return pages * resource.getpagesize() / 2**20


def measure_peak_mb() -> float:
    """Measures the largest resident size of this process so far, in MB (2²⁰ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
