"""The search for the fewest layers to leave dense: orders from sensitivity, every step a measurement."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prox24_export.passes.graph import Array, TracedGraph
from prox24_export.report.budget_model import BudgetPoint, SensitivityReport, UnitSensitivity
from prox24_export.sensitivity import Dense, Model, Restored, Unit, variant

ERRORS = 1.0  # standard errors that a change must stay below its limit
TRIES = 8  # layers tried sparse again with all others solved again

Weights = Mapping[str, Array]
SolveAgain = Callable[[Dense], MutableMapping[str, Array]]
Order = Callable[[UnitSensitivity, float], float]  # of a unit and the loss with everything pruned: first where largest

ORDERS: Mapping[str, Order] = {
    "loss gained where dense, per share of the expected gain": lambda unit, pruned: (
        (pruned - unit.restored) / _or_least(unit.share)
    ),
    "loss gained where dense, per parameter": lambda unit, pruned: (pruned - unit.restored) / unit.parameters,
    "loss where pruned alone, per share of the expected gain": lambda unit, _: unit.alone / _or_least(unit.share),
    "loss where pruned alone, per parameter": lambda unit, _: unit.alone / unit.parameters,
}
RELATIVE_ERROR: Mapping[str, Order] = {"relative error": lambda unit, _: unit.relative_error}  # to compare with


@dataclass(frozen=True)
class Figure:
    """A metric's change for the worse, its standard error, and the limit; all in the metric's unit."""

    metric: str
    value: float
    error: float
    limit: float

    def fits(self, errors: float) -> bool:
        """Whether the change stays so many standard errors below its limit. What does not change always fits."""
        return self.value + errors * self.error <= self.limit + 1e-9

    def excess(self, errors: float) -> float:
        """By how much it is over the limit."""
        return self.value + errors * self.error - self.limit


class Judge(Protocol):
    """What decides whether a variant keeps the limits."""

    def __call__(self, model: Model) -> Sequence[Figure]:
        """Figures of one variant."""


@dataclass(frozen=True)
class Choice:
    """Units that are dense, and the weights of the others."""

    dense: tuple[Unit, ...]
    weights: Weights
    solved_again: bool

    @property
    def parameters(self) -> int:
        """Entries of the weights that are left dense."""
        return sum(unit.parameters for unit in self.dense)


@dataclass
class Search:
    """Finds the choice with the fewest dense parameters that keeps the limits.

    Attributes:
        graph: The dense model.
        found: Units, in network order.
        sensitivity: Of each of them.
        solved: Every pruned weight by name.
        judge: Measures a variant.
        solve_again: Solves all weights but those that are dense; None where that is not wanted.
        errors: Standard errors below the limit.
        orders: By which units are left dense.
        curve: Every variant measured, filled as the search goes.
        reasons: By unit: why it is sparse or dense again.
    """

    graph: TracedGraph
    found: Sequence[Unit]
    sensitivity: SensitivityReport
    solved: Weights
    judge: Judge
    solve_again: SolveAgain | None = None
    errors: float = ERRORS
    orders: Mapping[str, Order] = field(default_factory=lambda: ORDERS)
    curve: list[BudgetPoint] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    _judged: dict[tuple[Dense, bool], BudgetPoint] = field(init=False, default_factory=dict)

    def run(self) -> Choice:
        """The choice."""
        if (nothing := self._restored("everything pruned", ())) is not None:
            return nothing
        best = min((self._in_order(name) for name in self.orders), key=lambda choice: choice.parameters)
        if self.solve_again is not None:
            best = self._sparse_again(self._shorter(best), tries=TRIES, again=True)
        return best

    def _in_order(self, name: str) -> Choice:
        """The shortest prefix of an order, then single units of it sparse again."""
        ranked = self._ranked(name)
        low, high = 0, len(ranked)  # nothing dense is too little; everything dense changes nothing
        choice = Choice(tuple(ranked), Restored(self.solved, names_of(ranked)), solved_again=False)
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._restored(name, ranked[:middle])
            low, high, choice = (low, middle, fitting) if fitting else (middle, high, choice)
        return self._sparse_again(choice, tries=len(ranked), again=False)

    def _shorter(self, best: Choice) -> Choice:
        """Fewer of the best choice's units, in its order, the other layers solved again; bisected."""
        ranked, low, high = best.dense, 0, len(best.dense)
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._again("the first of these", ranked[:middle])
            low, high, best = (low, middle, fitting) if fitting else (middle, high, best)
        return best

    def _sparse_again(self, best: Choice, *, tries: int, again: bool) -> Choice:
        """Single units sparse again, the largest first, each tried once."""
        for unit in sorted(best.dense, key=lambda unit: -unit.parameters)[:tries]:
            fewer = tuple(other for other in best.dense if other is not unit)
            if not fewer:
                break  # all pruned was measured first
            title = f"{unit.name} sparse again"
            fitting = self._again(title, fewer) if again else self._restored(title, fewer)
            point = self._judged[names_of(fewer), again]
            figures = f"{point.metric} then loses {point.value:.3g} ± {point.error:.2g}, limit {point.limit:g}"
            self.reasons[unit.name] = f"{'sparse again' if fitting else 'not sparse again'}: {figures}"
            best = fitting or best
        return best

    def _ranked(self, name: str) -> list[Unit]:
        order = self.orders[name]
        known = {row.name: order(row, self.sensitivity.pruned) for row in self.sensitivity.units}
        return sorted(self.found, key=lambda unit: -known[unit.name])

    def _restored(self, name: str, dense: Sequence[Unit]) -> Choice | None:
        return self._measured(name, Choice(tuple(dense), Restored(self.solved, names_of(dense)), solved_again=False))

    def _again(self, name: str, dense: Sequence[Unit]) -> Choice | None:
        known = self._judged.get((names_of(dense), True))
        if self.solve_again is None or (known is not None and not known.fits):
            return None
        weights = self.solve_again(names_of(dense))
        choice = self._measured(name, Choice(tuple(dense), weights, solved_again=True))
        if choice is None:
            weights.clear()  # they may be gigabytes on disk
        return choice

    def _measured(self, name: str, choice: Choice) -> Choice | None:
        """The choice, if it keeps every limit; its point is added to the curve."""
        key = names_of(choice.dense), choice.solved_again
        if key not in self._judged:
            figures = self.judge(variant(self.graph, choice.weights))
            worst = max(figures, key=lambda figure: figure.excess(self.errors))
            self._judged[key] = BudgetPoint(
                order=name,
                layers=sum(len(unit.linears) for unit in choice.dense),
                parameters=choice.parameters,
                share=sum(unit.share for unit in choice.dense),
                metric=worst.metric,
                value=worst.value,
                error=worst.error,
                limit=worst.limit,
                fits=all(figure.fits(self.errors) for figure in figures),
                solved_again=choice.solved_again,
            )
            self.curve.append(self._judged[key])
        return choice if self._judged[key].fits else None


def names_of(dense: Sequence[Unit]) -> Dense:
    """Stored weights of all of them."""
    return frozenset(name for unit in dense for name in unit.weights)


def _or_least(share: float) -> float:
    return max(share, 1e-6)  # a layer without operations costs nothing to leave dense
