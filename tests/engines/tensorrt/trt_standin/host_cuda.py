"""What `torch.cuda` is to our code, in host memory: streams that work only when they are waited for, events, graphs.

Work runs late, as on a GPU: a result that is read before its stream was waited for is not there yet.
"""

# ruff: noqa: ARG001, ARG002, PLR0917 (arguments that torch has)

import time
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar

import torch

Work = Callable[[], None]
FIRST_HANDLE = 0x7000


class Stream:
    """A queue of work."""

    by_handle: ClassVar[dict[int, "Stream"]] = {}

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.cuda_stream = FIRST_HANDLE + len(Stream.by_handle)
        self.queue: list[Work] = []
        self.capturing: CUDAGraph | None = None
        Stream.by_handle[self.cuda_stream] = self

    def submit(self, work: Work) -> None:
        if self.capturing is not None:
            self.capturing.work.append(work)
        else:
            self.queue.append(work)

    def synchronize(self) -> None:
        if self.capturing is not None:
            self.capturing.invalid = "a stream that is capturing was waited for"
            raise RuntimeError(self.capturing.invalid)
        while self.queue:
            self.queue.pop(0)()


class Event:
    """A moment on a stream."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False
    ) -> None:
        self.enable_timing = enable_timing
        self.moment: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        assert stream is not None, "an event must be recorded on the session's stream"
        stream.submit(self._now)

    def elapsed_time(self, end_event: "Event") -> float:
        if not (self.enable_timing and end_event.enable_timing):
            raise RuntimeError("both events must be made with enable_timing=True")
        if self.moment is None or end_event.moment is None:
            raise RuntimeError("both events must be recorded and done")
        return 1000 * (end_event.moment - self.moment)

    def _now(self) -> None:
        self.moment = time.perf_counter()


class CUDAGraph:
    """Work kept for replay."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.work: list[Work] = []
        self.invalid = ""
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for work in self.work:
            current_stream().submit(work)


class _Current:
    stream = Stream()  # the default one


class stream:  # noqa: N801 (torch's name)
    """Makes a stream the current one."""

    def __init__(self, stream: Stream) -> None:
        self.wanted = stream

    def __enter__(self) -> None:
        self.before, _Current.stream = _Current.stream, self.wanted

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _Current.stream = self.before


class graph:  # noqa: N801 (torch's name)
    """Captures what is put on a stream."""

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: object = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
        enable_annotations: bool = False,
        check_input_liveness: bool = False,
    ) -> None:
        assert stream is not None, "the session's stream must be captured"
        assert capture_error_mode in ("global", "thread_local", "relaxed")
        self.graph, self.stream = cuda_graph, stream

    def __enter__(self) -> None:
        synchronize()
        self.before = current_stream()
        set_stream(self.stream)
        self.stream.capturing = self.graph

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.capturing = None
        if self.graph.invalid:  # the current stream stays ours then, as torch leaves it
            raise RuntimeError(
                f"CUDA error: operation failed due to a previous error during capture: {self.graph.invalid}"
            )


def current_stream(device: object = None) -> Stream:
    return _Current.stream


def set_stream(stream: Stream) -> None:
    _Current.stream = stream


def synchronize(device: object = None) -> None:
    for each in Stream.by_handle.values():
        each.synchronize()


def install(patch: Callable[[object, str, object], None]) -> None:
    """Puts all of it where `torch.cuda` has its own."""
    for replacement in (Stream, Event, CUDAGraph, stream, graph, synchronize, current_stream, set_stream):
        patch(torch.cuda, replacement.__name__, replacement)
