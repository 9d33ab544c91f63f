"""CUDA's part of the torch engine, against a stand-in for `torch.cuda` that insists on the documented order."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from prox24_export.engines.torch_sparse.timed import TorchTimed, capture_all

CUDA = torch.device("cuda")


class Gpu:
    """A stream of work: replaying a graph runs what was captured; an event has a time only once all is done."""

    def __init__(self) -> None:
        self.now, self.calls, self.capturing = 0.0, 0, False
        self.pending: list[Any] = []

    def work(self) -> tuple[torch.Tensor, ...]:
        """A model: 2 ms each."""
        self.calls += 1
        self.now += 2.0
        return (torch.full((2,), float(self.calls)),)

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        """Capture."""
        self.capturing = True
        yield
        self.capturing = False
        graph.replay = self.work

    def synchronize(self) -> None:
        """Everything is done."""
        for event in self.pending:
            event.done = True
        self.pending.clear()


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        assert isinstance(other, Stream)


class Graph:
    def replay(self) -> None:
        raise AssertionError("nothing was captured")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    fake = Gpu()

    class Event:
        done = False

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = fake.now
            fake.pending.append(self)

        def elapsed_time(self, stop: "Event") -> float:
            assert self.done, "elapsed_time before synchronize"
            assert stop.done, "elapsed_time before synchronize"
            return stop.at - self.at

    for name, value in {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
        "graph": fake.graph,
        "synchronize": fake.synchronize,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_times_are_those_between_two_events(gpu: Gpu) -> None:
    assert TorchTimed("one", gpu.work, ("y",), CUDA).times(3) == [2.0, 2.0, 2.0]


def test_a_captured_model_warms_up_and_then_replays(gpu: Gpu) -> None:
    timed = TorchTimed("one", gpu.work, ("y",), CUDA)
    assert capture_all([timed], CUDA) == ()
    assert gpu.calls == 3 + 1
    assert timed.times(2) == [2.0, 2.0]
    assert list(timed.outputs()) == ["y"]
    assert gpu.calls == 4 + 3
    timed.close()
    with pytest.raises(RuntimeError, match="closed"):
        timed.outputs()


def test_where_one_cannot_be_captured_none_is_and_it_is_said(gpu: Gpu) -> None:
    def refuses() -> tuple[torch.Tensor, ...]:
        if gpu.capturing:
            gpu.capturing = False
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")
        return gpu.work()

    models = [TorchTimed("dense", gpu.work, ("y",), CUDA), TorchTimed("sparse", refuses, ("y",), CUDA)]
    (told,) = capture_all(models, CUDA)
    assert told == (
        "not captured as CUDA graphs (sparse: operation not permitted when stream is capturing): times hold what the "
        "host takes to start each kernel"
    )
    assert [model.times(1) for model in models] == [[2.0], [2.0]]
    assert capture_all(models, torch.device("cpu")) == ()
