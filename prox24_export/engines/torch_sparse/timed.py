"""A torch function on fixed inputs, timed: by CUDA events, as a CUDA graph where possible; by the clock on a CPU."""

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
    """See `latency.Timed`. Inputs are on the device already; nothing is transferred while time is taken."""

    def __init__(self, name: str, run: TimedCall, names: Sequence[str], device: torch.device) -> None:
        """Runs nothing yet.

        Args:
            name: What messages call it.
            run: The function, without arguments.
            names: Of its outputs.
            device: Where it runs.
        """
        self.name = name
        self._run, self._names, self._device = run, tuple(names), device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: Sequence[Tensor] = ()

    def capture(self) -> str:
        """Makes it a CUDA graph; says why where that is impossible, and it then runs as it did."""
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
        except Exception as error:  # noqa: BLE001 - whatever a kernel refuses: it is told, and nothing is lost
            torch.cuda.synchronize()
            return first_line(error)
        self._graph, self._static = graph, static
        return ""

    def release(self) -> None:
        """Runs without a graph again."""
        self._graph, self._static = None, ()

    def outputs(self) -> dict[str, Array]:
        """One inference; floats narrower than float32 are widened, which is exact."""
        if self._graph is None:
            results = self._run()
        else:
            self._graph.replay()
            results = self._static
        return {name: _as_array(value) for name, value in zip(self._names, results, strict=True)}

    def times(self, runs: int) -> list[float]:
        """Milliseconds of each inference."""
        call = self._run if self._graph is None else self._graph.replay
        return (_by_events if self._device.type == "cuda" else _by_clock)(call, runs)

    def close(self) -> None:
        """Frees the graph, the function and what it holds."""
        self.release()
        self._run = _closed


def capture_all(models: Sequence[TorchTimed], device: torch.device) -> tuple[str, ...]:
    """Makes CUDA graphs of all models or of none, because they are compared; returns what there is to say of it."""
    if device.type != "cuda":
        return ()
    for model in models:
        why = model.capture()
        if why:
            for other in models:
                other.release()
            return (EAGER.format(why=f"{model.name}: {why}"),)
    return ()


def _by_events(call: Callable[[], object], runs: int) -> list[float]:
    pairs = [(_event(), _event()) for _ in range(runs)]
    for start, stop in pairs:
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in pairs]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _by_clock(call: Callable[[], object], runs: int) -> list[float]:
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


def _closed() -> Sequence[Tensor]:
    raise RuntimeError("the model is closed")
