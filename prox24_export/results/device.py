"""Which device a run computed on, as its report has it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HostWork:
    """Work that was left to the host although the run was on a GPU.

    Attributes:
        work: What it was: `calibration` or `accuracy`.
        reason: Why it was left to the host.
        layers: Names of the layers whose inputs were computed there; empty for other work.
    """

    work: str
    reason: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceReport:
    """The device that calibration, solver, refinement and accuracy computed on.

    Attributes:
        name: `cpu`, or `cuda:` and the number of the GPU; of several, all of them with commas between.
        title: What the GPU is called; empty for the CPU.
        on_host: What was left to the host.
    """

    name: str
    title: str = ""
    on_host: tuple[HostWork, ...] = ()
