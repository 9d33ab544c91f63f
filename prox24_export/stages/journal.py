"""The journal of a run: what a later run with the same fingerprint need not do again.

Recorded are the order of channels, every layer that is solved, and how far the refinement is. What depends on the order
of channels has the order's digest in its key, so that nothing of another order is ever used.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prox24_export.errors import InputError, describe_fault
from prox24_export.output.records import Records
from prox24_export.passes.graph.arrays import Array, as_array, as_tensor
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.refine.state import CPU, RefineProgress
from prox24_export.process.interrupts import mark_resumable
from prox24_export.results.mask import Thumbnail
from prox24_export.results.permutation import PermutationReport
from prox24_export.results.reader import read_part
from prox24_export.results.report import LayerReport

HEAD, CHANNELS, REFINEMENT = "run", "channels", "refinement"
TENSORS, JSON, PROGRESS = "safetensors", "json", "pt"  # the endings of records
WEIGHT, ROW, MASK = "weight", "row", "mask"
SHARE = 0.02  # of the time of the refinement that may go into writing its state
WITHIN = 60.0  # seconds after which the refinement is saved within an epoch, too
MARK = 12  # digits of the digest of an order in the keys of what depends on it


@dataclass(frozen=True)
class LayerRecord:
    """A layer that is done.

    Attributes:
        row: Its row of the report.
        mask: The corner of its mask; None where it stays dense.
        read: Reads its weight, as it is stored; None where it stays dense.
    """

    row: LayerReport
    mask: Thumbnail | None = None
    read: Callable[[], Array] | None = None


@dataclass(frozen=True)
class ChannelsRecord:
    """What came of the search for an order of channels.

    Attributes:
        report: What was found.
        warnings: What the user should know of it.
    """

    report: PermutationReport | None
    warnings: tuple[str, ...] = ()


@dataclass
class Journal:
    """What is recorded of a run, and what an earlier run has recorded.

    Attributes:
        records: Where it is on the disk; None where nothing is recorded.
        how: How a later run goes on, in words.
        warnings: Takes a sentence where the disk does not take a record: the run goes on without its journal.
        order: Digest of the order of channels in which the layers are solved.
        saved: When the refinement was saved last, by the monotonic clock, and how many seconds that took.
        is_writable: Whether records are still written.
    """

    records: Records | None = None
    how: str = ""
    warnings: list[str] = field(default_factory=list)
    order: str = ""
    saved: tuple[float, float] = (-math.inf, 0.0)
    is_writable: bool = True

    def read_head(self) -> dict[str, Any] | None:
        """Reads the fingerprint of the run that the journal is of; None where there is no whole one."""
        found: dict[str, Any] | None = self._read_json(HEAD)
        return found

    def write_head(self, fingerprint: Mapping[str, Any]) -> None:
        """Begins the journal of a run."""
        self._write_json(HEAD, fingerprint)

    def is_begun(self) -> bool:
        """Whether anything is recorded beside the fingerprint."""
        return self.records is not None and any(not file.name.startswith(f"{HEAD}.") for file in self._files())

    def has_layers(self) -> bool:
        """Whether layers are recorded, and not the order of channels alone."""
        return any(file.name.partition(".")[0] not in {HEAD, CHANNELS} for file in self._files())

    def read_channels(self) -> ChannelsRecord | None:
        """Reads what came of the search for an order of channels; None where that is not known yet."""
        try:
            found = self._read_json(CHANNELS)
            report = found["report"] if found else None
            read = None if report is None else read_part(PermutationReport, report)
            return None if found is None else ChannelsRecord(read, tuple(found["warnings"]))
        except (InputError, KeyError, TypeError):
            return None

    def write_channels(self, channels: ChannelsRecord) -> None:
        """Records the order of channels."""
        self._write_json(CHANNELS, asdict(channels))

    def set_order(self, report: PermutationReport | None) -> None:
        """Tells in which order of channels the layers are solved from now on."""
        orders = () if report is None else report.orders
        self.order = hashlib.sha256(json.dumps([asdict(order) for order in orders]).encode()).hexdigest()[:MARK]

    def layers(self, *, held_back: bool) -> "LayerRecords":
        """The records of layers, by whether held-back samples only choose."""
        return LayerRecords(self, f"{'fit' if held_back else 'all'}-{self.order}")

    def read_progress(self, device: torch.device = CPU) -> RefineProgress | None:
        """Reads how far the refinement is, on its GPU; None where it is not begun. It counts as saved now."""
        self.saved = time.monotonic(), 0.0
        file = None if self.records is None else self.records.find(f"{REFINEMENT}-{self.order}")
        try:
            return None if file is None else RefineProgress.load(file, device)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            return None

    def save_progress(self, progress: RefineProgress) -> None:
        """Records how far the refinement is.

        That is done whenever a part is done, and else, as long as it takes little of its time, after every epoch, and
        within an epoch once a minute.
        """
        began, (last, took), state = time.monotonic(), self.saved, progress.state
        least = took / SHARE if state is None or state.is_between_epochs else max(took / SHARE, WITHIN)
        if self.records is None or (state is not None and began - last < least):
            return
        self.put(f"{REFINEMENT}-{self.order}", PROGRESS, progress.save)
        ended = time.monotonic()
        self.saved = ended, ended - began

    def _files(self) -> Sequence[Path]:
        return [] if self.records is None else self.records.list_files()

    def _read_json(self, key: str) -> Any:
        file = None if self.records is None else self.records.find(key)
        try:
            return None if file is None else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def _write_json(self, key: str, plain: Any) -> None:
        text = json.dumps(plain)
        self.put(key, JSON, lambda file: file.write_text(text, encoding="utf-8"))

    def put(self, key: str, ending: str, write: Callable[[Path], Any]) -> None:
        """Writes a record; see `Records.put`.

        A disk that does not take it costs the journal, and never the run.
        """
        if self.records is None or not self.is_writable:
            return
        try:
            self.records.put(key, ending, write)
        except (OSError, SafetensorError, RuntimeError) as error:  # the last two are what writers make of the first
            self.is_writable = False
            self.warnings.append(
                f"The journal could not be written: {describe_fault(error)}. The run went on without it."
            )
            return
        if key != HEAD:
            mark_resumable(self.how)


@dataclass(frozen=True)
class LayerRecords:
    """The records of layers that are solved on the same samples, in the same order of channels.

    Attributes:
        journal: Where they are.
        kind: What their keys begin with.
    """

    journal: Journal
    kind: str

    def read(self, linears: Sequence[Linear]) -> dict[str, LayerRecord]:
        """Reads what is recorded of layers, by name; weights are read when they are asked for."""
        if self.journal.records is None:
            return {}
        places = {self._key(place): linear for place, linear in enumerate(linears)}
        files = self.journal.records.find_each(places)
        found = {places[key].name: self._read_one(places[key], file) for key, file in files.items()}
        return {name: record for name, record in found.items() if record is not None}

    def write(self, place: int, row: LayerReport, mask: Thumbnail | None = None, weight: Array | None = None) -> None:
        """Records a layer that is done.

        Args:
            place: Its place among the layers that can be pruned.
            row: Its row of the report.
            mask: The corner of its mask; None where it stays dense.
            weight: Its weight, as it is stored; None where it stays dense.
        """
        if self.journal.records is None:
            return
        tensors = {} if weight is None else {WEIGHT: as_tensor(weight)}
        told = {ROW: json.dumps(asdict(row)), MASK: json.dumps(None if mask is None else asdict(mask))}
        self.journal.put(self._key(place), TENSORS, lambda file: save_file(tensors, file, told))

    def _key(self, place: int) -> str:
        return f"{self.kind}-{place:05d}"

    def _read_one(self, linear: Linear, file: Path) -> LayerRecord | None:
        def read() -> Array:
            with safe_open(file, "pt") as content:
                return as_array(content.get_tensor(WEIGHT))

        try:
            with safe_open(file, "pt") as content:
                told, names = content.metadata() or {}, set(content.keys())
            row, mask = read_part(LayerReport, json.loads(told[ROW])), json.loads(told[MASK])
            corner = None if mask is None else read_part(Thumbnail, mask)
        except (SafetensorError, InputError, KeyError, ValueError, RecursionError):
            return None
        if row.name != linear.name or (WEIGHT in names) != (mask is not None):
            return None
        return LayerRecord(row, corner, read if WEIGHT in names else None)


NO_RECORDS = LayerRecords(Journal(), "")
"""Has nothing and takes nothing."""
