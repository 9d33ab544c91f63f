"""Device memory, a stream, events and CUDA graphs, by means of `torch.cuda`.

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
    """The current CUDA device, with a stream of its own.

    Args:
        place: torch's name of the memory, which a stand-in on the CPU sets to `cpu`.
    """

    def __init__(self, place: str = "cuda") -> None:
        """Makes the stream; torch raises where there is no GPU."""
        self._torch: Any = import_module("torch")  # seconds to import
        self._place = place
        self._stream = self._torch.cuda.Stream()

    @property
    def stream(self) -> int:
        """The handle of the stream, as TensorRT wants it."""
        return int(self._stream.cuda_stream)

    def empty(self, nbytes: int) -> Any:
        """Reserves uninitialised memory; one byte where none is wanted, since TensorRT refuses the null address."""
        return self._torch.empty(max(nbytes, 1), dtype=self._torch.uint8, device=self._place)

    def upload(self, array: HostArray) -> Any:
        """Copies `array` into device memory, C-contiguous; the copy is done on return."""
        buffer = self.empty(array.nbytes)
        if array.nbytes:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            buffer.copy_(self._torch.from_numpy(raw.copy()))  # a copy: torch warns of memory that is read-only
        self._torch.cuda.synchronize()  # torch's own stream did it, ours must not overtake
        return buffer

    def download(self, buffer: Any, shape: Sequence[int], dtype: Any) -> HostArray:
        """Waits for the stream, and copies what it left in `buffer` into a host array."""
        self.synchronize()
        wanted = np.empty(tuple(shape), dtype)
        if wanted.nbytes:
            wanted = buffer[: wanted.nbytes].cpu().numpy().view(dtype).reshape(tuple(shape))
        return wanted

    def synchronize(self) -> None:
        """Waits until the stream has nothing left to do."""
        self._stream.synchronize()

    def capture(self, launch: Launch) -> tuple[Launch, str]:
        """Captures `launch` as a CUDA graph.

        Args:
            launch: Puts work on the stream; it has run before, since first calls may allocate.

        Returns:
            What replays the graph, for `run` and `times`, and an empty text; or where the capture failed, `launch`
            itself and the reason.
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
        """Launches once and waits; our stream is then the current one, on which a graph is replayed."""
        with self._torch.cuda.stream(self._stream):
            launch()
        self.synchronize()

    def times(self, launch: Launch, runs: int) -> list[float]:
        """Returns the milliseconds of each of `runs` consecutive launches, between two events on the stream."""
        events = [[self._torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        with self._torch.cuda.stream(self._stream):  # once: between the events it would count
            for start, end in events:
                start.record(self._stream)
                launch()
                end.record(self._stream)
        self.synchronize()
        return [float(start.elapsed_time(end)) for start, end in events]
