"""How time and memory are taken on a device: CUDA events, torch's profiler, and its allocator's peak."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile

WARM_UPS, REPEATS = 3, 20
COPIED = 1 << 28  # float32 entries of the copy that measures bandwidth: 1 GiB, far more than any cache


class NoGpuError(Exception):
    """There is nothing to measure on; the message is the sentence the user reads."""


@dataclass(frozen=True)
class Call:
    """What is timed.

    Attributes:
        run: The call itself.
        prepare: Puts back what the call overwrites; not timed.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class Meter(Protocol):
    """Takes times and memory on one device."""

    @property
    def device(self) -> torch.device:
        """Where tensors are made."""

    @property
    def name(self) -> str:
        """Name of the device."""

    def medians(self, calls: Mapping[str, Call], repeats: int = REPEATS) -> dict[str, float]:
        """Median milliseconds of each call, taken in turns after a warm-up, the host's part included."""

    def kernel_ms(self, call: Call, kernel: str) -> float | None:
        """Mean milliseconds that the device spends in a kernel, by its name; None where the profiler saw none."""

    def peak_mb(self, run: Callable[[], object]) -> float | None:
        """Most MB (2²⁰ bytes) that a call holds on the device beyond what is held before it; None where not known."""

    def synchronize(self) -> None:
        """Waits until the device has done everything."""


def cuda_meter() -> Meter:
    """The meter of torch's current CUDA device.

    Raises:
        NoGpuError: torch sees none.
    """
    if not torch.cuda.is_available():
        raise NoGpuError("no CUDA GPU here: nothing measured")
    return CudaMeter(torch.device("cuda"), torch.cuda.get_device_name())


@dataclass(frozen=True)
class CudaMeter:
    """See `Meter`."""

    device: torch.device
    name: str

    def medians(self, calls: Mapping[str, Call], repeats: int = REPEATS) -> dict[str, float]:
        """See `Meter.medians`."""
        return medians(calls, _event_ms, repeats)

    def kernel_ms(self, call: Call, kernel: str) -> float | None:
        """See `Meter.kernel_ms`."""
        for _ in range(WARM_UPS):
            call.prepare()
            call.run()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(REPEATS):
                call.prepare()
                call.run()
            torch.cuda.synchronize()
        return mean_ms(profiler.key_averages(), kernel)

    def peak_mb(self, run: Callable[[], object]) -> float | None:
        """See `Meter.peak_mb`."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20

    def synchronize(self) -> None:
        """See `Meter.synchronize`."""
        torch.cuda.synchronize()


def medians(
    calls: Mapping[str, Call], time_ms: Callable[[Callable[[], object]], float], repeats: int
) -> dict[str, float]:
    """Median of each call's times; the calls take turns, so that a drifting clock favours none of them."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(WARM_UPS + repeats):
        for name, call in calls.items():
            call.prepare()
            took = time_ms(call.run)
            if repeat >= WARM_UPS:
                seen[name].append(took)
    return {name: statistics.median(times) for name, times in seen.items()}


class KernelTime(Protocol):
    """What torch's profiler says of one kernel: its name, how often it ran and how many microseconds in all."""

    key: str
    count: int
    self_device_time_total: float


def mean_ms(events: Iterable[KernelTime], kernel: str) -> float | None:
    """Mean milliseconds of the kernel of that name; None where there is none."""
    found = [event for event in events if event.key == kernel]
    runs = sum(event.count for event in found)
    return sum(event.self_device_time_total for event in found) / runs / 1000 if runs else None


def copy_bandwidth(meter: Meter, entries: int = COPIED) -> float:
    """GB (10⁹ bytes) a second, read and written, of a copy within the device's memory: the ceiling of a kernel."""
    source = torch.ones(entries, device=meter.device)
    target = torch.empty_like(source)
    took = meter.medians({"copy": Call(lambda: target.copy_(source))})["copy"]
    return 2 * source.numel() * source.element_size() / took / 1e6


def share_of_ceiling(moved_bytes: float, took_ms: float | None, bandwidth: float) -> float | None:
    """Per cent: the time that a copy of as many bytes would take, over the time taken.

    Args:
        moved_bytes: Read and written.
        took_ms: None where it was not measured.
        bandwidth: See `copy_bandwidth`.
    """
    return None if took_ms is None else 100 * moved_bytes / (bandwidth * 1e6) / took_ms


def _event_ms(run: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop))
