"""Figures and tables as people read them, and how plain text gets into Markdown without becoming markup."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

CELL = 160  # characters of a cell
BUDGET = 2_000  # bytes of a table's rows
UNITS = {"top1": (" %", " points"), "top5": (" %", " points"), "psnr": (" dB", " dB")}  # of a metric, of its change
NAMES = frozenset({"Layer", "Output", "Node"})  # first columns that hold names of the model
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


class Table(NamedTuple):
    """Plain text; whoever renders it escapes it."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def write(table: Table, budget: int = BUDGET, longest: int = CELL) -> list[str]:
    """Lines of a table with its title; none where it has no rows, a count in place of rows beyond the budget.

    Args:
        table: What to write.
        budget: Bytes of its rows.
        longest: Characters of a cell.
    """
    if not table.rows:
        return []
    first = code if table.header[0] in NAMES else text
    rows = [f"|{'|'.join((first(row[0]), *(text(cell, longest) for cell in row[1:])))}|" for row in table.rows]
    head = [f"|{'|'.join(table.header)}|", f"|{'---|' * len(table.header)}"]
    return ["", f"## {table.title}", "", *head, *fit(rows, budget, "rows")]


def fit(lines: Sequence[str], budget: int, what: str) -> list[str]:
    """As many lines as fit into `budget` bytes, and how many do not."""
    kept = bisect_right(list(accumulate(len(line.encode()) + 1 for line in lines)), budget)
    rest = len(lines) - kept
    return [*lines[:kept], *([f"\n{rest:,} more {what} left out; report.json has them all."] if rest else [])]


def text(words: str, longest: int = CELL) -> str:
    """One line of plain words, whatever they contain; long ones lose their middle."""
    return _SPECIAL.sub(lambda found: "&#92;" if found[0] == "\\" else f"\\{found[0]}", clip(words, longest))


def code(words: str) -> str:
    """A code span that the name cannot end."""
    name = clip(words, CELL).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{fence} {name} {fence}" if "`" in name else f"`{name}`"


def clip(words: str, longest: int) -> str:
    """One line of at most `longest` + 1 characters."""
    line = " ".join(words.split())
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[-longest // 2 :]}"


def number(value: float, digits: int = 3) -> str:
    """Significant digits, thousands separated, a real minus sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    written = f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
    return written.replace("-", "−")


def signed(value: float, unit: str = "") -> str:
    """A change: its sign always shown, ± where there is none."""
    sign = "+" if value > 0 else "" if value else "±"
    return f"{sign}{number(value)}{unit}"


def units(metric: str) -> tuple[str, str]:
    """What is written behind a metric, and behind its change."""
    return UNITS.get(metric.partition(" ")[0], ("", ""))


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return re.sub(r"^top(?=[15]\b)", "top-", metric)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """` (low to high)`; empty where an end is missing."""
    return "" if low is None or high is None else f" ({number(low, digits)} to {number(high, digits)})"
