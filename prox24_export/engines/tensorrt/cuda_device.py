"""Device memory, one stream, events and graphs, from `torch.cuda`.

Why torch: it is required anyway, and brings the CUDA runtime that it needs; events and graph capture are there as
documented classes. Polygraphy's `cuda` module has neither, and does not find the runtime where the CUDA 13 wheels put
it; cuda-python would be one more package. Memory is handed to TensorRT by address, streams by handle.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from prox24_export.errors import first_line

HostArray = npt.NDArray[Any]
Launch = Callable[[], None]


class CudaDevice:
    """The current CUDA device and a stream of its own on it.

    Args:
        place: torch's name of the memory; a CPU twin passes `cpu`.
    """

    def __init__(self, place: str = "cuda") -> None:
        """Makes the stream; torch raises where there is no GPU."""
        self._torch: Any = import_module("torch")  # seconds to import
        self._place = place
        self._stream = self._torch.cuda.Stream()

    @property
    def stream(self) -> int:
        """Handle of the stream, as TensorRT wants it."""
        return int(self._stream.cuda_stream)

    def empty(self, nbytes: int) -> Any:
        """Uninitialised memory; a byte where none is wanted, since TensorRT refuses the null address."""
        return self._torch.empty(max(nbytes, 1), dtype=self._torch.uint8, device=self._place)

    def upload(self, array: HostArray) -> Any:
        """Memory that holds `array`, C-contiguous; the copy is done on return."""
        buffer = self.empty(array.nbytes)
        if array.nbytes:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            buffer.copy_(self._torch.from_numpy(raw.copy()))  # a copy: torch warns of memory that is read-only
        self._torch.cuda.synchronize()  # torch's own stream did it, ours must not overtake
        return buffer

    def download(self, buffer: Any, shape: Sequence[int], dtype: Any) -> HostArray:
        """A host array of what the stream has left in `buffer`; waits for the stream."""
        self.synchronize()
        wanted = np.empty(tuple(shape), dtype)
        if wanted.nbytes:
            wanted = buffer[: wanted.nbytes].cpu().numpy().view(dtype).reshape(tuple(shape))
        return wanted

    def synchronize(self) -> None:
        """Waits until the stream has nothing left to do."""
        self._stream.synchronize()

    def capture(self, launch: Launch) -> tuple[Launch, str]:
        """`launch` as a CUDA graph, for `run` and `times`; or `launch` itself, and why it cannot be one.

        Args:
            launch: Puts work on the stream; it has run before, since first calls may allocate.
        """
        cuda = self._torch.cuda
        graph, current = cuda.CUDAGraph(), cuda.current_stream()
        try:
            # As trtexec captures: calls of other threads do no harm.
            with cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                launch()
        except RuntimeError as error:
            cuda.set_stream(current)  # torch leaves a capture that fails without doing so
            return launch, first_line(error)
        return graph.replay, ""

    def run(self, launch: Launch) -> None:
        """One launch, with our stream the current one, on which a graph is replayed; waits for it."""
        with self._torch.cuda.stream(self._stream):
            launch()
        self.synchronize()

    def times(self, launch: Launch, runs: int) -> list[float]:
        """Milliseconds of `runs` consecutive launches, each between two events on the stream."""
        events = [[self._torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        with self._torch.cuda.stream(self._stream):  # once: between the events it would count
            for start, end in events:
                start.record(self._stream)
                launch()
                end.record(self._stream)
        self.synchronize()
        return [float(start.elapsed_time(end)) for start, end in events]
