"""A command, run as a user would, and the peak of its anonymous memory, which stands in no file."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.01  # seconds between two looks
MB = 2**10  # of kB, as the system counts


@dataclass(frozen=True)
class Measured:
    """A command that has ended.

    Attributes:
        peak_mb: The peak of anonymous memory, in MB (2²⁰ bytes), as looked at a hundred times a second.
        seconds: Wall time from its start to its end.
        processor_seconds: Processor time, user and system together.
    """

    peak_mb: float
    seconds: float
    processor_seconds: float


def measure_command(command: Sequence[str]) -> Measured:
    """Runs a command without its output.

    Raises:
        SystemExit: It ends with another code than 0.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, ended = 0, 0
    while not ended:
        peak = max(peak, _read_anonymous(process.pid))
        time.sleep(INTERVAL)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return Measured(peak / MB, time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


def _read_anonymous(process: int) -> int:
    """Anonymous memory of a process in kB, what is swapped out included; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))
