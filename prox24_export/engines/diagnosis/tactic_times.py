"""What the builder timed: the fastest sparse and the fastest dense tactic of each layer."""

import math
import re
from dataclasses import dataclass, field

from prox24_export.engines.diagnosis.layer_names import read_onnx_nodes

# No list of sparse tactics is published; these parts are in every known name. A negation is not one of them.
SPARSE = re.compile(
    r"(?<!non)(?<!non[_-])(?<!no[_-])(?<!not[_-])spars|spmma|sptensor|(?<![a-z])sp_?gemm", re.IGNORECASE
)
GENERATED = "__myl_"  # kernels that Myelin generates are named after operators, not after how they compute
NUMBER = r"([0-9.eE+-]+)"
IDENTITY = r"(0x[0-9a-fA-F]+|\d+)"

RUNNER = re.compile(r"(?:-+ )?Timing Runner: (.+) \((\w+)(?:\[0x[0-9a-fA-F]+\])?\)$")
NAMED = re.compile(rf"Tactic Name: (\S+) Tactic: {IDENTITY} Time: {NUMBER}")  # 8.6 and later
SET = re.compile(rf".* Set Tactic Name: (\S+)(?: Tactic: {IDENTITY})?$")  # up to 8.5; the time follows
TIMED = re.compile(rf"Tactic: {IDENTITY} [Tt]ime:? {NUMBER}")
MYELIN_OP = re.compile(r"\(foreignNode\)\s*Autotuning op (.+?)(?:\(key: 0x[0-9a-fA-F]+\))?:(?:\s*(\[ONNX Layer: .*))?$")
MYELIN_ROW = re.compile(rf"\(foreignNode\)\s*\d+, {NUMBER}, [^,]+, [^,]+, ([^\s,]+),")


@dataclass(frozen=True)
class TacticTimes:
    """The fastest tactics of one layer, over all formats that were tried.

    Attributes:
        layer: The layer's name in the log.
        nodes: The ONNX nodes that the log names with it; empty where it names none.
        dense_ms: The time of the fastest dense tactic, in milliseconds; None where none was timed.
        dense_tactic: The name of that tactic; empty where the log has none.
        sparse_ms: The time of the fastest sparse tactic, in milliseconds; None where none was timed.
        sparse_tactic: The name of that tactic; empty where the log has none.
    """

    layer: str
    nodes: tuple[str, ...] = ()
    dense_ms: float | None = None
    dense_tactic: str = ""
    sparse_ms: float | None = None
    sparse_tactic: str = ""

    @property
    def sparse_excess(self) -> float | None:
        """How much longer the sparse tactic takes, as a share of the dense one's time; negative where it is faster.

        None where one of the two was not timed.
        """
        if self.dense_ms is None or self.sparse_ms is None or self.dense_ms <= 0:
            return None
        return self.sparse_ms / self.dense_ms - 1


def is_sparse(tactic: str) -> bool:
    """Whether a tactic's name says that it uses sparse matrix instructions."""
    return not tactic.startswith(GENERATED) and SPARSE.search(tactic) is not None


@dataclass
class _Layer:
    nodes: tuple[str, ...] = ()
    dense: tuple[float, str] = (math.inf, "")
    sparse: tuple[float, str] = (math.inf, "")

    def add(self, kernel: str, time: float) -> None:
        if is_sparse(kernel):
            self.sparse = min(self.sparse, (time, kernel))
        else:
            self.dense = min(self.dense, (time, kernel))

    def result(self, name: str) -> TacticTimes:
        dense, sparse = (None if math.isinf(best[0]) else best[0] for best in (self.dense, self.sparse))
        return TacticTimes(name, self.nodes, dense, self.dense[1], sparse, self.sparse[1])


@dataclass
class TimingReader:
    """Reads the timing lines of a verbose log, one message after another."""

    _layers: dict[str, _Layer] = field(default_factory=dict)
    _current: _Layer | None = None
    _op: _Layer | None = None  # inside a Myelin region
    _kernels: dict[str, str] = field(default_factory=dict)  # by tactic, until it is timed
    _last: str = ""

    def read(self, message: str) -> None:
        """Takes one message, without its prefix."""
        if "actic" not in message and "Runner" not in message and "foreignNode" not in message:
            return
        if found := RUNNER.match(message):
            self._begin(*found.groups())
        elif found := NAMED.match(message):
            self._add(found.group(1), found.group(3))
        elif found := SET.match(message):
            self._last = found.group(1)
            if found.group(2):
                self._kernels[found.group(2)] = self._last
        elif found := TIMED.match(message):
            self._add(self._kernels.get(found.group(1), self._last), found.group(2))
            self._last = ""
        else:
            self._read_myelin(message)

    def times(self) -> tuple[TacticTimes, ...]:
        """Returns the times of every layer of which a tactic was timed, in the log's order."""
        found = (layer.result(name) for name, layer in self._layers.items())
        return tuple(times for times in found if times.dense_ms is not None or times.sparse_ms is not None)

    def _begin(self, name: str, runner: str) -> None:
        self._kernels, self._last, self._op = {}, "", None
        # A region is timed as a whole, and a reformat multiplies by nothing.
        is_product = not runner.startswith(("Myelin", "Reformat"))
        self._current = self._layers.setdefault(name, _Layer()) if is_product else None

    def _add(self, kernel: str, time: str) -> None:
        value = _read_positive(time)
        if self._current is not None and value is not None:
            self._current.add(kernel, value)

    def _read_myelin(self, message: str) -> None:
        if found := MYELIN_OP.match(message):
            name, metadata = found.groups()
            self._op = self._layers.setdefault(name, _Layer())
            self._op.nodes = read_onnx_nodes(metadata or "")
        elif self._op is not None and (found := MYELIN_ROW.match(message)):
            value = _read_positive(found.group(1))
            if value is not None:
                self._op.add(found.group(2), value)


def _read_positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:  # a cut line
        return None
    return value if math.isfinite(value) and value > 0 else None
