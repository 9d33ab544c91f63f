"""What a run will take in memory and time, as `plan` says before it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlan:
    """What one stage of a run will take.

    Attributes:
        layers: Names of the layers that the stage solves.
        memory_mb: Peak of resident memory in MB (2²⁰ bytes).
        seconds: Wall time.
    """

    layers: tuple[str, ...]
    memory_mb: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will take on this machine.

    Attributes:
        memory_mb: Peak of resident memory in MB (2²⁰ bytes).
        seconds: Wall time of the whole run without the refinement.
        stages: The stages, in the order in which they run.
        refines: Whether the run also refines the model; the refinement's memory and time are not included.
        quantises: Whether the run also writes INT8 files; calibration and choice of their scales are not included.
    """

    memory_mb: float
    seconds: float
    stages: tuple[StagePlan, ...]
    refines: bool = False
    quantises: bool = False
