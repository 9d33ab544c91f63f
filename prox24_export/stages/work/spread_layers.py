"""Layers of a stage, spread over workers: other machines' processes, or GPUs of this one.

Which pieces there are follows from the layers, and their solutions are put together in order, so that every bit is the
one that one worker would have come to by itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.sparsify import SolvedLayer, Sparsify, group_by_moments
from prox24_export.solver.solution import LayerSolution, join_rows
from prox24_export.stages.work.piece_solver import SharedInput
from prox24_export.stages.work.workers import WorkerCall, Workers, cut_evenly, deal_out, make_calls

Blended = tuple[SharedInput, list[str], dict[str, float]]  # of layers that share an input: that, names, blends


@dataclass(frozen=True)
class SpreadLayers:
    """Solves the layers of a stage, each piece by one of some workers.

    Attributes:
        workers: The workers, which are called by the methods of `PieceSolver`.
        setup: As in `Workers.ask`.
        sparsify: How layers are solved.
        hand_out: Hands out what is known of layers that share an input.
        take: Takes the solution of a piece out of a worker's answer.
        join: Adds up what was handed out over all data that layers are solved on, where the workers share it.
    """

    workers: Workers
    setup: Any
    sparsify: Sparsify
    hand_out: Callable[[Mapping[str, Observation]], SharedInput]
    take: Callable[[Any], LayerSolution]
    join: Callable[[SharedInput], SharedInput] = lambda shared: shared

    def solve(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> Iterator[SolvedLayer]:
        """See `StageWork.solve`."""
        blended = [(self.join(shared), names, blends) for shared, names, blends in self._choose_blends(layers, seen)]
        share = max(1, self.workers.count // max(1, len(blended)))
        dealt = [
            (shared, run, blends)
            for shared, names, blends in blended
            for run in deal_out([layers[name] for name in names], share, self.sparsify.halvings)
        ]
        calls = [WorkerCall("solve_rows", (shared, run.pieces, blends), run.cost) for shared, run, blends in dealt]
        solved: dict[str, list[LayerSolution]] = {}
        for (shared, run, blends), answer in zip(dealt, make_calls(self.workers, self.setup, calls), strict=True):
            for (name, rows), packed in zip(run.pieces, answer, strict=True):
                solved.setdefault(name, []).append(self.take(packed))
                if rows.stop == layers[name].n:
                    solution = join_rows(solved.pop(name))
                    yield SolvedLayer(name, solution, blends[name], shared.damping, solution.seconds)

    def _choose_blends(self, layers: Mapping[str, Linear], seen: dict[str, Observation]) -> list[Blended]:
        """Hands out what is known of the layers' inputs, and chooses what the solver aims at; `seen` is emptied."""
        blended: list[Blended] = []
        calls: list[WorkerCall] = []
        groups = group_by_moments(seen, layers)
        share = max(1, self.workers.count // max(1, len(groups)))
        for names in groups:
            observed = {name: seen.pop(name) for name in names}
            first = observed[names[0]]
            shared, blends = self.hand_out(observed), dict[str, float]()
            if first.choice is None or self.sparsify.blend is not None or not self.sparsify.aims:  # no data is read
                blends |= self.sparsify.choose_blends({}, observed, shared.damping)
            else:
                costs = [float(layers[name].n) * layers[name].k ** 2 for name in names]
                calls += [
                    WorkerCall("choose_blends", (shared, names[run.start : run.stop]), sum(costs[run.start : run.stop]))
                    for run in cut_evenly(costs, share)
                ]
            blended.append((shared, names, blends))
        chosen: dict[str, float] = {}
        for answer in make_calls(self.workers, self.setup, calls):
            chosen |= answer
        return [(shared, names, blends or {name: chosen[name] for name in names}) for shared, names, blends in blended]
