"""Which layers TensorRT's builder found eligible for sparse tactics, and for which it chose one, read from its log."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prox24_export.engines.diagnosis.layer_names import onnx_nodes
from prox24_export.engines.diagnosis.log_records import Record, records, records_of
from prox24_export.engines.diagnosis.sparsity_lines import Statement, may_list, statement_of
from prox24_export.engines.diagnosis.tactic_times import TacticTimes, TimingReader

REGISTERED = re.compile(r"Registering layer: (.+) for ONNX node: (.+)$")
REGION = re.compile(r"ForeignNode (\{ForeignNode\[.*\]\}) metadata: (.*)$", re.DOTALL)
SKIPPED = re.compile(r"Skipping tactic .*insuff?icient memory")  # 8.x spells it with one f
NO_MEMORY = re.compile(
    r"Device memory is insufficient to use tactic|Requested amount of GPU memory .* could not be allocated|OutOfMemory"
)
VERBOSE = re.compile(
    r"(?:-+ )?Timing Runner: |Registering (?:layer|tensor): |Tactic: |\(foreignNode\)|Static check for |Autotuning "
)


@dataclass(frozen=True)
class LayerList:
    """Layers that the log names.

    Attributes:
        names: As TensorRT writes them, fused names whole, each once, in the log's order.
        count: How many the log says there are.
        is_complete: Whether every name could be read: only then does a missing name mean that the layer is not in it.
    """

    names: tuple[str, ...] = ()
    count: int = 0
    is_complete: bool = True


@dataclass(frozen=True)
class SparsityLog:
    """What a builder log says of sparsity.

    Attributes:
        eligible: Layers whose weights fit a sparse tactic; None where the log has no such line.
        chosen: Layers that the plan computes by one; None where the log has no such line.
        times: Fastest tactics of each layer that was timed; only in verbose logs.
        registered: ONNX node by layer of the parsed network; only in verbose logs.
        regions: ONNX nodes by Myelin region; only in verbose logs of TensorRT 10 and later.
        is_verbose: Whether verbose messages are in it; TensorRT 10 writes the lists at no other level.
        problems: What could not be read for certain, each a sentence with its line.
        warnings: What makes the build itself untrustworthy.
    """

    eligible: LayerList | None
    chosen: LayerList | None
    times: tuple[TacticTimes, ...] = ()
    registered: Mapping[str, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_verbose: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def parse(text: str) -> SparsityLog:
    """Reads a log as text: of trtexec, Python's logger, Polygraphy or bare, also as a terminal wrapped it.

    A log whose messages are at hand one by one is read by `parse_messages`, which has nothing to guess.
    """
    return _read(records(text))


def parse_messages(messages: Sequence[str]) -> SparsityLog:
    """Reads the messages that a logger object was given, in order, with or without prefix."""
    return _read(records_of(messages))


@dataclass
class _Reader:
    """What was read so far."""

    lists: list[Record] = field(default_factory=list)
    timing: TimingReader = field(default_factory=TimingReader)
    registered: dict[str, str] = field(default_factory=dict)
    regions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)  # lines
    refused: list[int] = field(default_factory=list)
    is_verbose: bool = False
    wraps: int = 0

    def read(self, record: Record) -> None:
        """Takes one record."""
        self.wraps += sum(record.is_full(index) for index in range(record.wrapped))
        self.is_verbose = self.is_verbose or record.is_verbose
        if may_list(record):
            self.lists.append(record)
            return
        message = record.text
        self.timing.read(message)
        self.is_verbose = self.is_verbose or VERBOSE.match(message) is not None
        if match := REGISTERED.match(message):
            self.registered[match.group(1)] = match.group(2)
        elif match := REGION.match(message):
            self.regions[match.group(1)] = onnx_nodes(match.group(2))
        elif SKIPPED.search(message):
            self.skipped.append(record.line)
        elif NO_MEMORY.search(message):
            self.refused.append(record.line)


def _read(found: Iterable[Record]) -> SparsityLog:
    reader = _Reader()
    for record in found:
        reader.read(record)
    lists = (statement_of(record, reader.wraps) for record in reader.lists)
    statements = [statement for statement in lists if statement is not None]
    eligible, chosen, problems = _united(statements)
    return SparsityLog(
        eligible,
        chosen,
        reader.timing.times(),
        reader.registered,
        reader.regions,
        reader.is_verbose,
        (*(statement.problem for statement in statements if statement.problem), *problems),
        _memory_warning(reader.skipped or reader.refused),
    )


def _memory_warning(lines: Sequence[int]) -> tuple[str, ...]:
    if not lines:
        return ()
    tactics = "1 tactic was" if len(lines) == 1 else f"{len(lines)} tactics were"
    sentence = (
        f"{tactics} left out while timing because GPU memory could not be allocated (first at line {lines[0]} of the "
        "log): the choice of tactics is not to be trusted. Free memory on the GPU, or raise the workspace limit, and "
        "build again"
    )
    return (sentence,)


def _united(statements: Sequence[Statement]) -> tuple[LayerList | None, LayerList | None, list[str]]:
    """The last plain pair, and every pair of a Myelin region: a plan is selected anew, each region adds its own."""
    plain = [statement for statement in statements if not statement.is_foreign]
    foreign = [statement for statement in statements if statement.is_foreign]
    last = max((index for index, statement in enumerate(plain) if statement.kind == "eligible"), default=len(plain) - 1)
    pair = plain[max(last, 0) : last + 2]
    cut = [statement for statement in (_unanswered(foreign), _unanswered(pair)) if statement is not None]
    problems = [
        f"line {statement.line} of the log lists eligible layers, but the list of chosen ones after it is missing: cut?"
        for statement in cut
    ]
    counted = [*foreign, *pair]
    eligible = _list(statement for statement in counted if statement.kind == "eligible")
    chosen = _list(statement for statement in counted if statement.kind == "chosen")
    if chosen is not None and cut:
        chosen = LayerList(chosen.names, chosen.count, is_complete=False)
    if eligible is not None and chosen is not None and eligible.is_complete:
        strays = [name for name in chosen.names if name not in eligible.names]
        problems += [f"the log says that {name} is chosen but not that it is eligible" for name in strays]
    return eligible, chosen, problems


def _unanswered(statements: Sequence[Statement]) -> Statement | None:
    """The first list of eligible layers that no list of chosen ones follows."""
    for index, statement in enumerate(statements):
        after = statements[index + 1 : index + 2]
        if statement.kind == "eligible" and not (after and after[0].kind == "chosen"):
            return statement
    return None


def _list(statements: Iterable[Statement]) -> LayerList | None:
    found = list(statements)
    if not found:
        return None
    names = tuple(dict.fromkeys(name for statement in found for name in statement.names))
    is_complete = all(statement.is_complete for statement in found)
    stated = sum(len(statement.names) if statement.count is None else statement.count for statement in found)
    return LayerList(names, len(names) if is_complete else stated, is_complete)
