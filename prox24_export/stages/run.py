"""What a run gathers beside its result: time and warnings; and where it shows its progress."""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from prox24_export.data.checked_arrays import can_join, show_shape
from prox24_export.errors import describe_fault
from prox24_export.facts.machine import list_versions
from prox24_export.passes.find_linears import matches
from prox24_export.passes.graph.protocol import Input, Linear, Skipped, TracedGraph
from prox24_export.process.interrupts import raise_if_interrupted
from prox24_export.progress import Progress, Silent
from prox24_export.results.device import HostWork
from prox24_export.results.report import RANDOM_WARNING, DataFacts, Fault
from prox24_export.settings import Settings
from prox24_export.stages.device_memory import DeviceMemoryError

T = TypeVar("T")
TIME_AXES = {"t", "time", "seq", "sequence", "seq_len", "sequence_length", "frames"}
BATCH_AXES = {"n", "b", "batch", "batch_size"}


@dataclass
class Run:
    """What one run gathers.

    Attributes:
        progress: Where it shows how far it is.
        start: Clock at its start, in seconds.
        started: Date and time of its start, UTC.
        versions: The versions of all packages that take part, found before the work, when a failure costs nothing.
        seconds: Wall seconds by name of the stage.
        warnings: What the user should know, one sentence each.
        faults: The stages that failed after the layers were solved.
        on_host: What was left to the host although the run is on a GPU.
    """

    progress: Progress = field(default_factory=Silent)
    start: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=list_versions)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    on_host: list[HostWork] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the wall seconds that the block takes to those of the stage `name`.

        Raises:
            KeyboardInterrupt: A signal came, and compiled code swallowed its exception.
        """
        raise_if_interrupted()
        begun = time.perf_counter()
        yield
        raise_if_interrupted()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begun, 3)

    def attempt(self, stage: str, work: Callable[[], T], otherwise: T) -> T:
        """Does what may fail without taking a solved result with it; a fault is noted, for the report to name.

        Args:
            stage: The name of the stage.
            work: What to do.
            otherwise: What to return where it fails.

        Raises:
            DeviceMemoryError: A GPU has too little memory; the journal has what is solved, and a later run goes on.
        """
        try:
            return work()
        except DeviceMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the layers are solved
            if os.environ.get("PROX24_TRACEBACK"):
                traceback.print_exception(error)
            self.faults.append(Fault(stage, describe_fault(error)))
            return otherwise

    def warn_about_globs(self, settings: Settings, found: Sequence[Linear | Skipped]) -> None:
        """Warns of every glob of `--include` and `--exclude` that matches no layer."""
        for option, globs in (("--include", settings.include), ("--exclude", settings.exclude)):
            for glob in globs:
                if not any(matches(glob, {layer.name, layer.weight or ""}) for layer in found):
                    self.warnings.append(f"{option} {glob} matches no layer.")

    def warn_about(self, graph: TracedGraph, facts_of_data: DataFacts | None) -> None:
        """Warns of what cannot be measured with this model and these samples, and why."""
        if graph.runs_in_float32:
            self.warnings.append(
                f"ONNX Runtime has no CPU kernels for {' and '.join(graph.runs_in_float32)} here: calibration and "
                "accuracy ran on a float32 copy; the exported file keeps its own types."
            )
        if random := [node.name for node in graph.nodes if node.is_random]:
            self.warnings.append(
                f"{random[0]} draws random numbers: dense and sparse are compared on the same draws, and whoever runs "
                "the sparse model draws others."
            )
        if facts_of_data is not None and can_join(graph.inputs):
            self.warnings.extend(filter(None, map(_describe_time_axis, graph.inputs)))
        if facts_of_data is not None and facts_of_data.is_random:
            self.warnings.append(RANDOM_WARNING)
        if facts_of_data is not None and facts_of_data.report == 0:
            self.warnings.append("Only one sample was given: accuracy was not measured.")
        if facts_of_data is not None and facts_of_data.choice == 0 and not facts_of_data.is_random:
            self.warnings.append("Too few calibration samples to hold any back: the blend is the default.")


def _describe_time_axis(value: Input) -> str | None:
    """Says that samples were taken along an axis whose name is that of time, where another one is named for samples."""
    names = [str(size).lower() for size in value.shape or ()]
    axis = next((axis for axis, name in enumerate(names) if axis and name in BATCH_AXES), None)
    if axis is None or names[0] not in TIME_AXES:
        return None
    return (
        f"Input {value.name} is {show_shape(value.shape or ())}: its first axis was taken for the samples, and by its "
        f"name it is time; samples lie along axis {axis}. Export the model with the batch first (batch_first=True), or "
        "with a fixed number of time steps, so that that many rows are one sample."
    )
