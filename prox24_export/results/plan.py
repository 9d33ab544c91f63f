"""What a run will take, stated before it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlan:
    """What one stage will take.

    Attributes:
        layers: Names of the layers that it solves.
        memory_mb: Peak of resident memory, MB (2²⁰ bytes).
        seconds: Wall time.
    """

    layers: tuple[str, ...]
    memory_mb: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will take on this machine.

    Attributes:
        memory_mb: Peak of resident memory, MB (2²⁰ bytes).
        seconds: Wall time of the whole run, the refinement left out.
        stages: In order.
        refines: Whether there is a refinement, whose memory and time are not in here.
    """

    memory_mb: float
    seconds: float
    stages: tuple[StagePlan, ...]
    refines: bool = False
