"""The work of this process with several GPUs: the first one runs the stages, and all of them solve layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.graph.on_device import exact_products
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.sparsify import SolvedLayer, Sparsify
from prox24_export.solver.solution import LayerSolution
from prox24_export.stages.work.piece_solver import PieceSolver, SharedInput
from prox24_export.stages.work.spread_layers import SpreadLayers
from prox24_export.stages.work.stage_work import OwnWork
from prox24_export.stages.work.workers import WorkerCall


@dataclass(frozen=True)
class GpuWorkers:
    """GPUs of this machine as workers, by a thread each; see `Workers`. Torch lets others run while a GPU computes.

    They share the memory of this process: what stands for a value is the value itself.

    Attributes:
        solvers: What solves on each GPU.
        threads: Its thread.
    """

    solvers: Sequence[PieceSolver]
    threads: Sequence[ThreadPoolExecutor]

    @property
    def count(self) -> int:
        """How many GPUs there are."""
        return len(self.solvers)

    def put(self, value: Any) -> Any:
        """See `Workers.put`."""
        return value

    def ask(self, worker: int, setup: Any, call: WorkerCall) -> Any:  # noqa: ARG002 - a GPU has the run's own model
        """See `Workers.ask`."""
        return self.threads[worker].submit(getattr(self.solvers[worker], call.method), *call.arguments)

    def wait(self, asked: Future[Any]) -> Any:
        """See `Workers.wait`; raises what the call has raised."""
        return asked.result()


@dataclass
class GpuWork(OwnWork):
    """Work of this process whose layers several GPUs solve; its weights are read to the host.

    Attributes:
        gpus: The GPUs, all of one kind. The first one has the moments, and takes the solutions.
    """

    gpus: Sequence[torch.device]

    def solve(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> Iterator[SolvedLayer]:
        """See `StageWork.solve`. No GPU changes what it is handed: the others copy it, the first one reads it there."""
        sparsify, home, lock = self.sparsify, self.gpus[0], Lock()

        def make_solver(gpu: torch.device) -> PieceSolver:
            def read_weight(linear: Linear) -> Tensor:
                with lock:  # a model need not be read by several threads at once
                    return self.read_weight(linear).to(gpu)

            return PieceSolver(sparsify, layers, read_weight, lambda moments: moments.to(gpu), lambda one: one.to(gpu))

        def hand_out(observed: Mapping[str, Observation]) -> SharedInput:
            first, residuals = next(iter(observed.values())), {name: one.residuals for name, one in observed.items()}
            return SharedInput(first.fit, first.choice, residuals, sparsify.choose_damping(first))

        def take(solution: LayerSolution) -> LayerSolution:
            return replace(solution, weight=solution.weight.to(home), mask=solution.mask.to(home))

        with _start_threads(home, len(self.gpus)) as threads:
            workers = GpuWorkers([make_solver(gpu) for gpu in self.gpus], threads)
            join = _make_join(sparsify)
            yield from SpreadLayers(workers, None, sparsify, hand_out, take, join).solve(layers, seen)


def _make_join(sparsify: Sparsify) -> Callable[[SharedInput], SharedInput]:
    """Makes what adds up, in place and before any layer is solved, the data that layers are solved on."""

    def join(shared: SharedInput) -> SharedInput:
        whole = sparsify.join_moments({"": Observation(shared.fit, shared.choice)})
        residuals = {name: sparsify.join_residuals(parts) for name, parts in shared.residuals.items()}
        known = {name: {} if residual is None else {"fit": residual} for name, residual in residuals.items()}
        return SharedInput(whole, None, known, shared.damping)

    return join


@contextmanager
def _start_threads(home: torch.device, count: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Starts threads and ends them with the block; where it fails, what they do is done first, and nothing after it."""
    torch.linalg.cholesky(torch.ones(1, 1, device=home))  # threads would race for torch's library, which it loads once
    threads = [ThreadPoolExecutor(1) for _ in range(count)]
    try:
        with exact_products():  # which is a setting of all threads: none may change it for the others
            yield threads
    finally:
        for thread in threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in threads:
            thread.shutdown()
