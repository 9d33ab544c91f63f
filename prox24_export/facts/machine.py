"""What a report says of the machine, the versions of a run, and how much memory the process takes."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("prox24-export", "torch", "onnx", "onnx-ir", "onnxruntime", "numpy", "numba", "safetensors")
OPTIONAL = ("transformers", "triton")
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 4 << 20  # malloc.h; bytes


def list_versions() -> dict[str, str]:
    """Lists the versions of Python and of every package that takes part, by name."""
    return dict(_read_versions())


@cache  # they stay the same in a process, and are parsed of long texts
def _read_versions() -> dict[str, str]:
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


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


def measure_anonymous_mb() -> float:
    """Measures what this process holds now that stands in no file, in MB (2²⁰ bytes); the resident size elsewhere."""
    try:
        resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:
        return measure_resident_mb()
    return (int(resident) - int(shared)) * resource.getpagesize() / 2**20


def measure_peak_mb() -> float:
    """Measures the largest resident size of this process so far, in MB (2²⁰ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
