"""What a run will take in memory and time, as `plan` says before it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlan:
    """What one stage of a run will take.

    Attributes:
        layers: Names of the layers that the stage solves.
        memory_mb: Peak of memory in MB (2²⁰ bytes), without what the system keeps of files.
        seconds: Wall time.
    """

    layers: tuple[str, ...]
    memory_mb: float
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """What an interrupted run has done, so that the next one need not.

    Attributes:
        layers: Names of the layers that are solved.
        total: Number of layers that can be pruned.
        permuted: Whether the order of channels is found.
        epochs: Number of epochs that the refinement has kept.
    """

    layers: frozenset[str]
    total: int
    permuted: bool
    epochs: int


@dataclass(frozen=True)
class Plan:
    """What a run will take on this machine.

    Attributes:
        memory_mb: Peak of memory in MB (2²⁰ bytes), without what the system keeps of files.
        seconds: Wall time of the whole run without the refinement.
        stages: The stages, in the order in which they run.
        refines: Whether the run also refines the model; the refinement's memory and time are not included.
        quantises: Whether the run also writes INT8 files; calibration and choice of their scales are not included.
        resumed: What an interrupted run has done, which `seconds` leaves out; None where it starts anew.
        assumptions: What was assumed and not measured, one sentence each without its full stop.
        workers: Number of workers that calibrate and solve; memory is then that of each process, and the time what it
            takes at best. 0 for this process alone.
    """

    memory_mb: float
    seconds: float
    stages: tuple[StagePlan, ...]
    refines: bool = False
    quantises: bool = False
    resumed: Resumed | None = None
    assumptions: tuple[str, ...] = ()
    workers: int = 0
