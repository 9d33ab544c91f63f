"""Which layers TensorRT's builder found eligible for sparse tactics, and for which it chose one, read from its log."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prox24_export.engines.diagnosis.layer_names import read_onnx_nodes
from prox24_export.engines.diagnosis.log_records import Record, make_records, split_log
from prox24_export.engines.diagnosis.sparsity_lines import Statement, may_list, read_statement
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
    """The layers that a list of the log names.

    Attributes:
        names: The names as TensorRT writes them, fused names whole, each once, in the log's order.
        count: How many layers the log says there are.
        is_complete: Whether every name could be read; only then does a missing name mean that the layer is not listed.
    """

    names: tuple[str, ...] = ()
    count: int = 0
    is_complete: bool = True


@dataclass(frozen=True)
class SparsityLog:
    """What a builder log says of sparsity.

    Attributes:
        eligible: The layers whose weights fit a sparse tactic; None where the log has no such line.
        chosen: The layers that the plan computes by a sparse tactic; None where the log has no such line.
        times: The fastest tactics of each layer that was timed; only verbose logs have them.
        registered: The ONNX node of each layer of the parsed network; only verbose logs have them.
        regions: The ONNX nodes in each Myelin region; only verbose logs of TensorRT 10 and later have them.
        is_verbose: Whether verbose messages are in the log; TensorRT 10 writes the lists at no other level.
        problems: What could not be read for certain, each a sentence with the line's number.
        warnings: What makes the build itself untrustworthy, a sentence each.
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
    """Reads the text of a log of trtexec, Python's logger or Polygraphy, or without prefixes, even if it was wrapped.

    Where the messages of a log are at hand one by one, `parse_messages` reads them and has nothing to guess.
    """
    return _read_records(split_log(text))


def parse_messages(messages: Sequence[str]) -> SparsityLog:
    """Reads the messages that a logger object was given, in their order, with or without prefixes."""
    return _read_records(make_records(messages))


@dataclass
class _Reader:
    """What was read of a log so far."""

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
            self.regions[match.group(1)] = read_onnx_nodes(match.group(2))
        elif SKIPPED.search(message):
            self.skipped.append(record.line)
        elif NO_MEMORY.search(message):
            self.refused.append(record.line)


def _read_records(found: Iterable[Record]) -> SparsityLog:
    reader = _Reader()
    for record in found:
        reader.read(record)
    lists = (read_statement(record, reader.wraps) for record in reader.lists)
    statements = [statement for statement in lists if statement is not None]
    eligible, chosen, problems = _unite_statements(statements)
    return SparsityLog(
        eligible,
        chosen,
        reader.timing.times(),
        reader.registered,
        reader.regions,
        reader.is_verbose,
        (*(statement.problem for statement in statements if statement.problem), *problems),
        _warn_of_memory(reader.skipped or reader.refused),
    )


def _warn_of_memory(lines: Sequence[int]) -> tuple[str, ...]:
    if not lines:
        return ()
    tactics = "1 tactic was" if len(lines) == 1 else f"{len(lines)} tactics were"
    sentence = (
        f"{tactics} left out while timing because GPU memory could not be allocated (first at line {lines[0]} of the "
        "log): the choice of tactics is not to be trusted. Free memory on the GPU, or raise the workspace limit, and "
        "build again"
    )
    return (sentence,)


def _unite_statements(statements: Sequence[Statement]) -> tuple[LayerList | None, LayerList | None, list[str]]:
    """Makes one pair of lists of all statements: what is eligible, what is chosen, and what does not fit together.

    Of the plan's own pairs the last counts, because the plan may be selected anew; those of Myelin regions all count,
    because each region adds its own.
    """
    plain = [statement for statement in statements if not statement.is_foreign]
    foreign = [statement for statement in statements if statement.is_foreign]
    last = max((index for index, statement in enumerate(plain) if statement.kind == "eligible"), default=len(plain) - 1)
    pair = plain[max(last, 0) : last + 2]
    cut = [statement for statement in (_find_unanswered(foreign), _find_unanswered(pair)) if statement is not None]
    problems = [
        f"line {statement.line} of the log lists eligible layers, but the list of chosen ones after it is missing: cut?"
        for statement in cut
    ]
    counted = [*foreign, *pair]
    eligible = _make_list(statement for statement in counted if statement.kind == "eligible")
    chosen = _make_list(statement for statement in counted if statement.kind == "chosen")
    if chosen is not None and cut:
        chosen = LayerList(chosen.names, chosen.count, is_complete=False)
    if eligible is not None and chosen is not None and eligible.is_complete:
        strays = [name for name in chosen.names if name not in eligible.names]
        problems += [f"the log says that {name} is chosen but not that it is eligible" for name in strays]
    return eligible, chosen, problems


def _find_unanswered(statements: Sequence[Statement]) -> Statement | None:
    """Finds the first list of eligible layers that no list of chosen ones follows."""
    for index, statement in enumerate(statements):
        after = statements[index + 1 : index + 2]
        if statement.kind == "eligible" and not (after and after[0].kind == "chosen"):
            return statement
    return None


def _make_list(statements: Iterable[Statement]) -> LayerList | None:
    found = list(statements)
    if not found:
        return None
    names = tuple(dict.fromkeys(name for statement in found for name in statement.names))
    is_complete = all(statement.is_complete for statement in found)
    stated = sum(len(statement.names) if statement.count is None else statement.count for statement in found)
    return LayerList(names, len(names) if is_complete else stated, is_complete)
