"""Tables in Markdown, and how plain text gets into Markdown without becoming markup."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from prox24_export.report.tables import Table

CELL = 160  # most characters of a cell
BUDGET = 2_000  # most bytes of a table's rows
NAME_COLUMNS = frozenset({"Layer", "Output", "Node"})  # first columns that hold names of the model
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def write_table(table: Table, budget: int = BUDGET, longest: int = CELL) -> list[str]:
    """Writes a table with its title as lines; a count stands in place of rows beyond the budget.

    Args:
        table: What to write; without rows nothing is written.
        budget: The most bytes of its rows.
        longest: The most characters of a cell.
    """
    if not table.rows:
        return []
    first = code_span if table.header[0] in NAME_COLUMNS else escape_text
    rows = [f"|{'|'.join((first(row[0]), *(escape_text(cell, longest) for cell in row[1:])))}|" for row in table.rows]
    head = [f"|{'|'.join(table.header)}|", f"|{'---|' * len(table.header)}"]
    return ["", f"## {table.title}", "", *head, *fit(rows, budget, "rows")]


def fit(lines: Sequence[str], budget: int, what: str) -> list[str]:
    """Keeps as many lines as fit into `budget` bytes; a last line counts the `what` (a noun) that are left out."""
    kept = bisect_right(list(accumulate(len(line.encode()) + 1 for line in lines)), budget)
    rest = len(lines) - kept
    return [*lines[:kept], *([f"\n{rest:,} more {what} left out; report.json has them all."] if rest else [])]


def escape_text(words: str, longest: int = CELL) -> str:
    """Escapes a text into one line that Markdown shows as it is; a text longer than `longest` loses its middle."""
    return _SPECIAL.sub(lambda found: "&#92;" if found[0] == "\\" else f"\\{found[0]}", clip(words, longest))


def code_span(words: str) -> str:
    """A code span of a name, which the name itself cannot end."""
    name = clip(words, CELL).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{fence} {name} {fence}" if "`" in name else f"`{name}`"


def clip(words: str, longest: int) -> str:
    """Puts a text on one line of at most `longest` + 1 characters; a longer one loses its middle."""
    line = " ".join(words.split())
    return line if len(line) <= longest else f"{line[: longest // 2]}…{line[-longest // 2 :]}"
