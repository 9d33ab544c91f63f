"""Calls to workers: made side by side, answered in order; what a lost worker was asked, another one is asked again.

A call holds everything that its answer depends on. What a worker keeps between calls only saves time, so that any
worker can take the call of another.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.protocol import Linear
from prox24_export.solver.solution import cut_rows
from prox24_export.stages.memory import group_by_input

ATTEMPTS = 3  # of a call; one that ends every worker would be made for ever


class WorkerLostError(Exception):
    """A worker ended before it had answered; what it kept is lost."""


@dataclass(frozen=True)
class WorkerCall:
    """One call.

    Attributes:
        method: A method of what the workers have, such as `StageWorker`.
        arguments: Its arguments; large ones as what `Workers.put` returned.
        cost: What it costs beside other calls.
    """

    method: str
    arguments: tuple[Any, ...]
    cost: float


class Workers(Protocol):
    """Workers that hold a model each, and answer calls one after the other."""

    @property
    def count(self) -> int:
        """How many there are."""

    def put(self, value: Any) -> Any:
        """Stores a value that several calls read, and returns what stands for it in their arguments."""

    def ask(self, worker: int, setup: Any, call: WorkerCall) -> Any:
        """Makes a call, which a worker takes when its turn comes, and returns what `wait` takes.

        Args:
            worker: Which worker; where it cannot be replaced after it was lost, another one.
            setup: What `put` returned for the setup of the worker that the call needs.
            call: The call.

        Raises:
            Prox24Error: No worker is left.
        """

    def wait(self, asked: Any) -> Any:
        """Waits for the answer to a call.

        Raises:
            WorkerLostError: The worker was lost.
        """


class MachineWorkers(Workers, Protocol):
    """Workers that are processes, of one machine or of several."""

    @property
    def on_one_machine(self) -> int:
        """How many there may be on the machine that has the most of them, which share its memory."""


def make_calls(workers: Workers, setup: Any, calls: Sequence[WorkerCall]) -> Iterator[Any]:
    """Makes calls side by side, and yields their answers in order.

    Calls of the same costs go to the same workers each time, which have what they kept from the last one.

    Args:
        workers: The workers.
        setup: As in `Workers.ask`.
        calls: The calls.

    Raises:
        Prox24Error: A call was lost with several workers, or no worker is left.
    """
    places = assign([call.cost for call in calls], workers.count)
    asked = [workers.ask(place, setup, call) for place, call in zip(places, calls, strict=True)]
    for index, call in enumerate(calls):
        for attempt in itertools.count(1):
            try:
                answer = workers.wait(asked[index])
            except WorkerLostError as lost:
                if attempt == ATTEMPTS:
                    raise Prox24Error(
                        f"a worker was lost {ATTEMPTS} times in the same work: {lost}. Most often its machine has too "
                        "little memory: give --memory, or fewer workers a machine by more threads (OMP_NUM_THREADS)."
                    ) from lost
                asked[index] = workers.ask(places[index], setup, call)
            else:
                break
        asked[index] = None  # its memory can be given back
        yield answer


def assign(costs: Sequence[float], count: int) -> list[int]:
    """Assigns tasks to workers: the largest first, each to the one with the least to do.

    Args:
        costs: What each task costs.
        count: The number of workers.

    Returns:
        The worker of each task.
    """
    loads, places = [0.0] * count, [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: -costs[task]):
        places[task] = loads.index(min(loads))
        loads[places[task]] += costs[task]
    return places


def cut_evenly(costs: Sequence[float], count: int) -> list[range]:
    """Cuts tasks in their order into at most `count` runs of about the same cost; none is empty."""
    whole, done, ends = sum(costs), 0.0, list[int]()
    for place, cost in enumerate(costs):
        done += cost
        if done >= whole * (len(ends) + 1) / count * (1 - 1e-9) or place == len(costs) - 1:
            ends.append(place + 1)
    return [range(start, stop) for start, stop in itertools.pairwise([0, *ends])]


def find_longest_share(costs: Sequence[float], count: int) -> float:
    """Finds the share of all tasks that the worker with the most to do has: what they take at best, side by side."""
    loads = [0.0] * count
    for cost, place in zip(costs, assign(costs, count), strict=True):
        loads[place] += cost
    return max(loads) / sum(costs) if sum(costs) else 1.0


def find_solving_share(linears: Sequence[Linear], count: int) -> float:
    """Finds the share of a stage's solving that one of so many workers has, when its layers' pieces are dealt out."""
    groups = group_by_input(linears)
    share = max(1, count // max(1, len(groups)))
    runs = [run for group in groups for run in deal_out(group, share)]
    return find_longest_share([run.cost for run in runs], count)


@dataclass(frozen=True)
class PieceRun:
    """Pieces of layers that are solved by one worker, side by side.

    Attributes:
        pieces: Name of the layer and rows of each piece.
        cost: What they cost beside other pieces.
    """

    pieces: Sequence[tuple[str, slice]]
    cost: float


def deal_out(linears: Sequence[Linear], count: int, halvings: int = 0) -> list[PieceRun]:
    """Deals the pieces of layers that share an input out to at most so many workers, in their order.

    Args:
        linears: The layers.
        count: The number of workers.
        halvings: How often the pieces are halved, as in `cut_rows`.
    """
    cut = [(linear, rows) for linear in linears for rows in cut_rows(linear.n, linear.k, halvings)]
    pieces = [(linear.name, rows) for linear, rows in cut]
    costs = [float(rows.stop - rows.start) * linear.k**2 for linear, rows in cut]
    runs = cut_evenly(costs, count)
    return [PieceRun(pieces[run.start : run.stop], sum(costs[run.start : run.stop])) for run in runs]
