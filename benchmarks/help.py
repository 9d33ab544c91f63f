"""What `prox24-export --help` costs, in processor time: a command that answers late is not asked.

    python benchmarks/help.py

Prints the median over runs of user and system time together; exit code 1 if the promised limit is missed.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from resource import RUSAGE_CHILDREN, getrusage

from checks import Check, table

RUNS = 9
LIMIT = 0.6  # seconds


def processor_seconds(*arguments: str) -> float:
    """Measures one run of `python -m prox24_export`, its start included.

    Raises:
        CalledProcessError: The command failed.
    """
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "prox24_export", *arguments], stdout=subprocess.DEVNULL, check=True)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def help_checks() -> Iterator[Check]:
    """Yields the median over runs and its limit."""
    processor_seconds("--help")  # the first run compiles modules
    seconds = statistics.median(processor_seconds("--help") for _ in range(RUNS))
    yield Check("--help", f"seconds of processor time, median of {RUNS}", seconds, "≤", LIMIT)


def main() -> int:
    """Measures, prints the table, and returns the exit code."""
    checks = list(help_checks())
    print(table(checks), end="")
    return int(not all(check.passed for check in checks))


if __name__ == "__main__":
    sys.exit(main())
