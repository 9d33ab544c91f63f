"""A torch function with fixed inputs, timed as a CUDA graph by CUDA events, or on a CPU by the clock."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prox24_export.errors import first_line
from prox24_export.passes.graph.arrays import Array

WARM_UPS = 3  # before capture, as torch's documentation has it
EAGER = "not captured as CUDA graphs ({why}): times hold what the host takes to start each kernel"
TimedCall = Callable[[], Sequence[Tensor]]


class TorchTimed:
    """A function of torch; see `latency.Timed`. Its inputs are on the device, so that timing includes no transfer.

    Attributes:
        name: What messages call the model.
    """

    def __init__(self, name: str, run: TimedCall, names: Sequence[str], device: torch.device) -> None:
        """Keeps what is to be timed; nothing runs yet.

        Args:
            name: What messages call the model.
            run: The function, which takes no arguments.
            names: The names of its outputs.
            device: The device that it runs on.
        """
        self.name = name
        self._run, self._names, self._device = run, tuple(names), device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: Sequence[Tensor] = ()

    def capture(self) -> str:
        """Captures the function as a CUDA graph; returns why where that fails, and the function then runs as before."""
        try:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                static = self._run()
        except Exception as error:  # noqa: BLE001 - whatever a kernel refuses is reported, and nothing is lost
            torch.cuda.synchronize()
            return first_line(error)
        self._graph, self._static = graph, static
        return ""

    def release(self) -> None:
        """Frees the graph, so that the function runs without it again."""
        self._graph, self._static = None, ()

    def outputs(self) -> dict[str, Array]:
        """Runs one inference and returns its outputs by name; narrower floats become float32, which is exact."""
        if self._graph is None:
            results = self._run()
        else:
            self._graph.replay()
            results = self._static
        return {name: _as_array(value) for name, value in zip(self._names, results, strict=True)}

    def times(self, runs: int) -> list[float]:
        """Returns the milliseconds of each of `runs` consecutive inferences."""
        call = self._run if self._graph is None else self._graph.replay
        return (_time_by_events if self._device.type == "cuda" else _time_by_clock)(call, runs)

    def close(self) -> None:
        """Frees the graph, and the function with what it holds."""
        self.release()
        self._run = _refuse_closed


def capture_all(models: Sequence[TorchTimed], device: torch.device) -> tuple[str, ...]:
    """Captures all models as CUDA graphs, or none, because they are compared with each other.

    Returns:
        Why there are no graphs, in a sentence; nothing where there are, or where the device is no GPU.
    """
    if device.type != "cuda":
        return ()
    for model in models:
        why = model.capture()
        if why:
            for other in models:
                other.release()
            return (EAGER.format(why=f"{model.name}: {why}"),)
    return ()


def _time_by_events(call: Callable[[], object], runs: int) -> list[float]:
    pairs = [(_make_event(), _make_event()) for _ in range(runs)]
    for start, stop in pairs:
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in pairs]


def _make_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _time_by_clock(call: Callable[[], object], runs: int) -> list[float]:
    result = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        result.append(1000 * (time.perf_counter() - start))
    return result


def _as_array(value: Tensor) -> Array:
    narrow = value.is_floating_point() and value.element_size() < 4  # noqa: PLR2004 (bytes of a float32)
    array: Array = (value.float() if narrow else value).detach().cpu().numpy().copy()
    return array


def _refuse_closed() -> Sequence[Tensor]:
    raise RuntimeError("the model is closed")
