"""The clocks of a GPU and what holds them down, which are read and never changed, by pynvml or else nvidia-smi.

A figure measured while the GPU slows itself down for power or heat says little about a model. Neither library nor tool
tells whether clocks are locked (`nvidia-smi -lgc`); `are_clocks_locked` concludes it from several readings.
"""

import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from prox24_export.errors import Prox24Error

# Bits of the clocks event reasons, nvml.h.
REASONS = {
    0x1: "idle",
    0x2: "applications clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
}
IDLE, CLOCKS_SET = 0x1, 0x2
THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm")
REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # newer drivers, older drivers
TIMEOUT = 20  # seconds: nvidia-smi waits for the driver to load


class GpuStateError(Prox24Error):
    """The state of the GPU cannot be read."""


@dataclass(frozen=True)
class GpuState:
    """One reading of a GPU's state, with None for what the driver does not tell.

    Attributes:
        name: The name of the GPU.
        driver: The version of the driver.
        sm_mhz: The clock of the multiprocessors, in MHz.
        max_sm_mhz: The highest clock that the multiprocessors can have, in MHz.
        mask: The clocks event reasons, as bits that NVML defines.
    """

    name: str
    driver: str
    sm_mhz: int | None
    max_sm_mhz: int | None
    mask: int | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons for which the clocks are held down."""
        mask = self.mask or 0
        known = tuple(reason for bit, reason in REASONS.items() if mask & bit)
        rest = mask & ~sum(REASONS)
        return (*known, f"unknown reason {rest:#x}") if rest else known

    @property
    def throttled(self) -> tuple[str, ...]:
        """The reasons that have to do with power or heat."""
        return tuple(reason for bit, reason in REASONS.items() if (self.mask or 0) & bit & THROTTLED)

    @property
    def idle(self) -> bool:
        """Whether the clock may be low because there is nothing to do."""
        return bool((self.mask or 0) & IDLE)


def read_state(device: str = "0") -> GpuState:
    """Reads the present state of a GPU.

    Args:
        device: The GPU's index by NVML, or its UUID, `GPU-…`. NVML and torch count differently where
            `CUDA_VISIBLE_DEVICES` is set; `find_current_gpu` gives the UUID of torch's device.

    Raises:
        GpuStateError: Neither pynvml nor nvidia-smi can be used, or there is no such GPU.
    """
    state = _read_nvml(device)
    return state if state is not None else _read_nvidia_smi(device)


def find_current_gpu() -> str:
    """Finds the UUID of torch's current CUDA device; `0`, NVML's first GPU, where torch does not tell it."""
    torch = import_module("torch")
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return "0" if uuid is None else f"GPU-{uuid}"


def are_clocks_locked(readings: Sequence[GpuState]) -> bool | None:
    """Whether clocks are locked, judged by readings under load; None where these do not tell.

    A reason that names a clocks setting says yes. So does the same clock, below the highest, in at least three readings
    of a GPU that nothing slows down. Different clocks say no.
    """
    busy = [reading for reading in readings if not reading.idle]
    if any((reading.mask or 0) & CLOCKS_SET for reading in busy):
        return True
    clocks = {reading.sm_mhz for reading in busy}
    if None in clocks or not clocks:
        return None
    if len(clocks) > 1:
        return False
    enough = 3
    below = all(reading.max_sm_mhz is not None and (reading.sm_mhz or 0) < reading.max_sm_mhz for reading in busy)
    free = not any(reading.throttled for reading in busy)
    return True if len(busy) >= enough and below and free else None


def parse_csv(text: str) -> GpuState:
    """Reads the first line of nvidia-smi's CSV.

    Args:
        text: The output of nvidia-smi without header: `FIELDS` and the reasons, with or without units.

    Raises:
        GpuStateError: The line has another number of fields.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if len(values) != len(FIELDS) + 1:
        raise GpuStateError(f"nvidia-smi must answer with {len(FIELDS) + 1} values. Got {text.strip()!r}.")
    name, driver, clock, highest, mask = values
    return GpuState(name, driver, _read_number(clock), _read_number(highest), _read_number(mask))


def _read_number(text: str) -> int | None:
    """Reads `1980`, `1980 MHz` or `0x…4`; None for `[N/A]`, `[Not Supported]` and their like."""
    first = text.split(maxsplit=1)[0] if text.split() else ""
    try:
        return int(first, 0)
    except ValueError:
        return None


def _read_nvidia_smi(device: str) -> GpuState:
    complaint = ""
    for field in REASON_FIELDS:
        query = f"--query-gpu={','.join((*FIELDS, field))}"
        command = ["nvidia-smi", "-i", device, query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)  # noqa: S603 (no shell, fixed words)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GpuStateError(f"nvidia-smi, which reads clocks, cannot be run: {error}.") from error
        if done.returncode == 0:
            return parse_csv(done.stdout)
        complaint = " ".join(f"{done.stdout} {done.stderr}".split())  # the next name may be known to this driver
    raise GpuStateError(f"nvidia-smi cannot read the clocks of GPU {device}: {complaint}")


def _read_nvml(device: str) -> GpuState | None:
    """Asks pynvml; None where it is missing or fails, and nvidia-smi is asked instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # an older package of the same module says so on import
            nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 (its own error classes are known only once it is imported)
        return None
    try:
        by_uuid = device.startswith("GPU-")
        handle = nvml.nvmlDeviceGetHandleByUUID(device) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(device))
        newer = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        mask = (newer or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle)
        clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        highest = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
        name, driver = (_decode(value) for value in (nvml.nvmlDeviceGetName(handle), nvml.nvmlSystemGetDriverVersion()))
        return GpuState(name, driver, int(clock), int(highest), int(mask))
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
