"""The lines of a builder log that list layers: those eligible for sparse tactics, and those computed by one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from prox24_export.engines.diagnosis.log_records import Record

SEVERAL = 3  # wrapped lines that it takes to call a log wrapped
START_PIECES = 12  # lines over which the wording itself may be wrapped
MOST_PIECES = 2000  # lines, behind which a longer list is cut
START_LENGTH = 160


def _match_any_spaces(words: str) -> str:
    return r"\s*".join(words.split())  # a terminal may have broken, or lost, any space


STATEMENT = re.compile(
    r"(?:(?P<foreign>\(foreignNode\))\s*)?\(Sparsity\)\s*(?:"
    rf"(?P<eligible>{_match_any_spaces('Layers eligible for sparse math')}"
    rf"|{_match_any_spaces(r'Found (?P<found>[0-9]{1,9}) layer[(]s[)] eligible to use sparse tactics')})"
    rf"|{_match_any_spaces('TRT inference plan picked sparse implementation for layers')}"
    rf"|{_match_any_spaces(r'Chose (?P<chose>[0-9]{1,9}) layer[(]s[)] using sparse tactics')}"
    r")\s*(?P<colon>:?)\s*(?P<names>.*)$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Statement:
    """What one line says of layers.

    Attributes:
        line: The line's number in the log, from 1.
        kind: Whether the line lists the eligible or the chosen layers.
        is_foreign: Whether the line speaks of one Myelin region instead of the plan.
        names: The listed names as they stand, fused names whole.
        count: How many layers the line says there are; None in the wording of TensorRT 8.x, which gives no number.
        problem: What is uncertain about the reading, in a sentence; empty where nothing is.
    """

    line: int
    kind: Literal["eligible", "chosen"]
    is_foreign: bool
    names: tuple[str, ...]
    count: int | None
    problem: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether as many names were read as the line says."""
        return self.count is None or self.count == len(self.names)


def read_statement(record: Record, wraps: int) -> Statement | None:
    """Reads the list of a record, with as many of the lines after it as belong to it; None where it lists nothing.

    Args:
        record: One message of the log, and the lines after it that have no beginning of their own.
        wraps: The number of wrapped lines in the whole log, which is the evidence that it was wrapped at all.
    """
    if not may_list(record):
        return None
    first = next((n for n in range(min(len(record.pieces), START_PIECES)) if _read_joined(record, n) is not None), None)
    if first is None:
        return None
    most = min(len(record.pieces), MOST_PIECES)
    readings = {n: found for n in range(first, most) if (found := _read_up_to(record, n, first)) is not None}
    natural = max((n for n in readings if n <= max(first, record.wrapped)), default=first)
    taken = _choose_extent(record, readings, natural, is_wrapped=wraps >= SEVERAL)
    found = readings[taken]
    return replace(
        found,
        problem=_describe_mismatch(found) or _describe_doubt(record, readings, taken, is_wrapped=wraps >= SEVERAL),
    )


def may_list(record: Record) -> bool:
    """Whether a record may be a line that lists layers, wrapped or not."""
    start = "".join(record.pieces[:START_PIECES])[:START_LENGTH]
    return "(Sparsity)" in start or "(Sparsity)" in re.sub(r"\s", "", start)


def _read_up_to(record: Record, count: int, first: int) -> Statement | None:
    """Reads a record with `count` later lines; more than the wrapped ones only where the line says that names miss."""
    found = _read_joined(record, count)
    if found is None or count <= max(first, record.wrapped):
        return found
    return found if found.count is not None and len(found.names) <= found.count else None


def _read_joined(record: Record, count: int) -> Statement | None:
    match = STATEMENT.match(record.join(count))
    if match is None or (match["names"] and not match["colon"]):  # without its colon a line names nothing
        return None
    stated = match["found"] or match["chose"]
    return Statement(
        record.line,
        "eligible" if match["eligible"] else "chosen",
        match["foreign"] is not None,
        tuple(_split_names(match["names"])),
        int(stated) if stated else None,
    )


def _split_names(text: str) -> Iterator[str]:
    """Splits names at `, `, which only the name of fused pointwise layers, `PWN(a, b)`, holds itself."""
    held: list[str] = []
    is_fused, depth = False, 0
    for piece in text.split(", "):
        held.append(piece)
        is_fused = is_fused or "PWN(" in piece
        depth += piece.count("(") - piece.count(")")
        if is_fused and depth > 0:
            continue
        if name := ", ".join(held).strip().rstrip(",").rstrip():
            yield name
        held, is_fused, depth = [], False, 0
    if rest := ", ".join(held).strip():
        yield rest


def _choose_extent(record: Record, readings: dict[int, Statement], natural: int, *, is_wrapped: bool) -> int:
    """Chooses how many later lines to take: as the wrapping says, unless the line's own count says otherwise."""
    stated = readings[natural].count is not None
    exact = [n for n, found in readings.items() if stated and found.is_complete]
    if stated and exact and natural not in exact:
        return max((n for n in exact if n < natural), default=min(exact))
    if record.has_prefix or is_wrapped:
        return natural
    # A bare message after the longest line of a bare log looks like its wrapped rest.
    closed = [n for n in (exact or readings) if n <= natural and not (n < natural and record.is_open(n))]
    return min(closed, default=natural)


def _describe_doubt(record: Record, readings: dict[int, Statement], taken: int, *, is_wrapped: bool) -> str:
    """Describes what may be wrong with a reading that its own count does not contradict; empty where nothing is."""
    where = f"line {record.line} of the log"
    if any(not (record.is_open(n) or record.is_full(n)) for n in range(taken)):
        return f"{where}: its list was read on over {taken} more lines, as the number of layers that it states asks for"
    is_needed = readings[taken].count is not None and not any(
        found.is_complete for n, found in readings.items() if n != taken
    )
    if is_wrapped or is_needed:
        return ""
    if any(not record.is_open(n) for n in range(taken)):
        return f"{where}: the line after it was read as its wrapped rest; give the log without wrapping to be certain"
    if taken + 1 in readings and record.is_full(taken):
        return f"{where}: its list may go on in the line after it; give the log without wrapping to be certain"
    return ""


def _describe_mismatch(statement: Statement) -> str:
    if statement.is_complete:
        return ""
    read = f"{len(statement.names)} names could be read" if statement.names else "it gives no names"
    return (
        f"line {statement.line} of the log says that {statement.count} layers are {statement.kind}, but {read}: "
        "cut or wrapped lines? Give the log as it was written"
    )
