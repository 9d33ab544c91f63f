"""Workers in this process: they answer as those of a cluster do, and are lost when a test wants it."""

import pickle
from dataclasses import dataclass, field
from typing import Any

from prox24_export.stages.work.stage_worker import StageWorker
from prox24_export.stages.work.workers import WorkerCall, WorkerLostError


@dataclass
class OwnWorkers:
    """Workers that answer when they are waited for. What they are sent goes through pickle, as between processes.

    Attributes:
        count: How many there are.
        lost_at: The numbers of the calls, counted from 1 in the order of their answers, that are lost with the worker.
        made: Method and worker of every call, in that order.
    """

    count: int
    lost_at: frozenset[int] = frozenset()
    made: list[tuple[str, int]] = field(default_factory=list)
    workers: dict[int, tuple[bytes, StageWorker]] = field(default_factory=dict)

    @property
    def on_one_machine(self) -> int:
        return self.count

    def put(self, value: Any) -> Any:
        return pickle.dumps(value)

    def ask(self, worker: int, setup: Any, call: WorkerCall) -> Any:
        return worker, setup, pickle.dumps(call)

    def wait(self, asked: Any) -> Any:
        worker, setup, sent = asked
        call: WorkerCall = pickle.loads(sent)  # noqa: S301 - of this process
        self.made.append((call.method, worker))
        if len(self.made) in self.lost_at:
            self.workers.pop(worker, None)
            raise WorkerLostError(f"worker {worker} is gone")
        if self.workers.get(worker, (b"",))[0] != setup:
            self.workers[worker] = setup, StageWorker(pickle.loads(setup), pickle.loads)  # noqa: S301
        answer = getattr(self.workers[worker][1], call.method)(*call.arguments)
        return pickle.loads(pickle.dumps(answer))  # noqa: S301
