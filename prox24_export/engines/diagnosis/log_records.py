"""A builder log as records: one message each, put together again where a terminal wrapped it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from prox24_export.errors import COLOUR

STAMP = r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\](?:\s*\[(?:[A-Z]|TRT)\])*"  # trtexec `[I] [TRT]`, Python `[TRT] [I]`
OLD = r"\[TensorRT\]\s*(?:VERBOSE|INFO|WARNING|ERROR|INTERNAL_ERROR):"  # Python logger of TensorRT 7 and 8.0
BARE = r"\[TRT\](?:\s*\[[A-Z]\])?"  # the stamp was cut off
POLYGRAPHY = r"\[[USXVIWE!]\](?:\s*\[TRT\])?(?:\s+\(\d\d:\d\d:\d\d\))?(?:\s+\[[^\]\s]+:\d+\])?"
TORCH = r"(?:VERBOSE|DEBUG|INFO|WARNING|ERROR):\s*\[[^\]]*TensorRT[^\]]*\]\s*-"
PREFIX = re.compile(rf"\s*(?:{STAMP}|{OLD}|{BARE}|{POLYGRAPHY}|{TORCH})(?:\s+|$)")
LONGEST_PREFIX = 60  # characters that have to be seen to tell a prefix that is wrapped itself
HEAD_PIECES = 4  # lines over which a prefix is looked for
HEAD = re.compile(rf"(?:{PREFIX.pattern})?(?:\(foreignNode\)\s*)?")  # what stands before the first word of a message
SPARSITY = re.compile(r"\s*\((?:Sparsity|foreignNode)\)")
# How messages begin that a bare log (no prefix) has beside a list of layers: they never continue one.
MESSAGE = re.compile(
    r"\s*(?:\(foreignNode\)|\(Sparsity\)|[-=*>]{5,} |&&&& |```|Tactic: |Tactic Name: |Tactic Device |Fastest Tactic: |"
    r"Skipping |Skipped |Finalize: |Total |Layer: |Layer\(|Registering |Timing Runner: |Subgraph compilation |"
    r"Autotuning |UNSUPPORTED_STATE|Requested amount |Engine |Kernel: )"
)
# Where a break between two lines was a space for certain: TensorRT's own names are `(Unnamed Layer* 3) [Convolution]`
# and `name [profile 1]`.
SPACE_BEFORE_BREAK = re.compile(r"(?:\(Unnamed|\bLayer\*|\bLayer\* \d+\)|\[profile)$")
SPACE_AFTER_BREAK = re.compile(r"\[profile(?: |$)")
NEWLINE = re.compile(r"\r\n|\n|\r")  # not str.splitlines: the separators U+001E and U+001F stand in messages


@dataclass(frozen=True)
class Record:
    """One message, and the lines after it that have no beginning of their own: its wrapped rest, or something else.

    Attributes:
        line: The number of the message's first line, from 1.
        pieces: The lines as they stand in the log.
        width: The length of the longest line of the whole log; a line is wrapped only where it is (nearly) as long.
    """

    line: int
    pieces: tuple[str, ...]
    width: int

    @cached_property
    def has_prefix(self) -> bool:
        """Whether the first line begins with the prefix of a logger."""
        return _is_prefixed(self.pieces, 0, self.width)

    @cached_property
    def wrapped(self) -> int:
        """How many of the later pieces belong to the message, judged by their length and by separators at the break."""
        for index in range(len(self.pieces) - 1):
            if not (self.is_full(index) or self.is_open(index)):
                return index
        return len(self.pieces) - 1

    @property
    def is_verbose(self) -> bool:
        """Whether the prefix says that the message's severity is below INFO; a prefix need not tell."""
        return (
            re.match(r"\s*(?:\[[^\]]*\]\s*)?(?:\[TRT\] \[V\]|\[V\] \[TRT\]|\[X\])|\[TensorRT\] VERBOSE", self.pieces[0])
            is not None
        )

    @property
    def text(self) -> str:
        """The message, without its prefix."""
        return self.join(self.wrapped)

    def is_full(self, index: int) -> bool:
        """Whether a piece reaches the right edge; a space that stood there may have been stripped."""
        return len(self.pieces[index]) >= self.width - 1

    def is_open(self, index: int) -> bool:
        """Whether the message goes on after a piece for certain: at a separator, or after nothing but a prefix."""
        return _is_open(self.pieces[index], self.pieces[index + 1]) or (index == 0 and _is_head(self.pieces[0]))

    def join(self, count: int) -> str:
        """Joins the message and `count` of the later pieces, and returns it without its prefix."""
        found = [self.pieces[0]]
        for index in range(count):
            stripped = len(self.pieces[index]) == self.width - 1
            found[-1], rest = _join_pieces(found[-1], self.pieces[index + 1], stripped=stripped)
            found.append(rest)
        text = "".join(found)
        prefix = PREFIX.match(text)
        return text[prefix.end() if prefix else 0 :].strip()


def split_log(text: str) -> Iterator[Record]:
    """Splits the text of a log into its messages, in their order."""
    lines = NEWLINE.split(COLOUR.sub("", text))
    width = max(map(len, lines))
    start = 0
    for index in range(1, len(lines) + 1):
        if index == len(lines) or _begins(lines, index, start, width):
            if lines[start].strip():
                yield Record(start + 1, tuple(lines[start:index]), width)
            start = index


def make_records(messages: Sequence[str]) -> Iterator[Record]:
    """Makes records of the messages that a logger object was given, none of which is wrapped."""
    for index, message in enumerate(messages):
        line = " ".join(piece.strip() for piece in NEWLINE.split(message) if piece.strip())
        if line:
            yield Record(index + 1, (line,), len(line) + 2)


def _begins(lines: Sequence[str], index: int, start: int, width: int) -> bool:
    """Whether line `index` begins a message; the one before it began at line `start`."""
    line, before = lines[index], lines[index - 1]
    if not line.strip() or not before.strip():
        return True
    if len(before) >= width - 1:
        if index - start <= HEAD_PIECES and _is_head(_join_beginning(lines[start:index], width)):
            return False  # the rest of a wrapped prefix looks like the prefix of another logger
        if _is_prefixed(lines, start, width) and not SPARSITY.match(line):
            return _is_prefixed(lines, index, width)
    return MESSAGE.match(line) is not None or _is_prefixed(lines, index, width)


def _is_prefixed(lines: Sequence[str], index: int, width: int) -> bool:
    if PREFIX.match(lines[index]):
        return True
    if not width - 1 <= len(lines[index]) < LONGEST_PREFIX:
        return False
    # The prefix may be wrapped itself, where lines are as short as that.
    pieces = [lines[index]]
    for piece in lines[index + 1 : index + HEAD_PIECES]:
        if len(pieces[-1]) < width - 1:
            break
        pieces.append(piece)
    return PREFIX.match(_join_beginning(pieces, width)) is not None


def _join_beginning(pieces: Sequence[str], width: int) -> str:
    """Joins full lines, with the spaces that were stripped at their ends."""
    return "".join(piece if len(piece) >= width else f"{piece} " for piece in pieces)


def _is_head(line: str) -> bool:
    found = HEAD.match(line)
    return bool(line.strip()) and found is not None and found.end() == len(line)


def _is_open(before: str, after: str) -> bool:
    before, after = before.rstrip(), after.lstrip()
    return before.endswith((",", " +")) or before == "+" or after.startswith(("+ ", ", ")) or after in {"+", ","}


def _join_pieces(before: str, after: str, *, stripped: bool) -> tuple[str, str]:
    """Mends the break between two neighbouring pieces, where the wrapping left a space out or doubled it."""
    left, right = before.rstrip(), after.lstrip()
    if left.endswith((",", " +")) or left == "+" or right.startswith("+ "):
        return f"{left} ", right
    if right.startswith(", "):
        return left, right
    is_named = SPACE_BEFORE_BREAK.search(before) or SPACE_AFTER_BREAK.match(after)
    is_lost = stripped or (is_named and not after.startswith(" "))
    return (f"{before} " if is_lost and not before.endswith(" ") else before), after
