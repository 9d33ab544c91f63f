"""The search for the fewest layers to leave dense: orders from sensitivity, every step a measurement.

Of many variants that are measured on the same samples, the best one is partly the luckiest. So the choice has to hold
on other samples as well; where it does not, more layers are left dense, in the order of what they gain, until it does.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prox24_export.budget.sensitivity import Dense, Restored, Unit, variant
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner, TracedGraph
from prox24_export.results.budget import CONFIRMING, BudgetPoint, SensitivityReport, UnitSensitivity

ERRORS = 1.0  # standard errors that a change must stay below its limit
ROUNDING = 1e-9
TRIES = 8  # layers tried sparse again with all others solved again

StoredWeights = Mapping[str, Array]
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
class LimitedFigure:
    """A metric's change for the worse on the samples of the search; all in the metric's unit.

    Attributes:
        metric: Its name.
        value: The change.
        own: Standard error of `value`.
        error: That of the figure which the report will hold, measured on other samples, about `value`.
        limit: Of the change.
    """

    metric: str
    value: float
    own: float
    error: float
    limit: float

    def margin(self, errors: float) -> float:
        """How far `value` has to stay below the limit: so many standard errors of the report's figure.

        Of those at most half of the limit, though never less than `value`'s own: where hits that are counted scatter by
        more than is allowed to be lost, dense layers hardly help and more samples do.
        """
        return max(errors * self.own, min(errors * self.error, self.limit / 2))

    def fits(self, errors: float) -> bool:
        """Whether the change keeps its margin. What does not change always fits."""
        return self.excess(errors) <= ROUNDING

    def excess(self, errors: float) -> float:
        """By how much it is over the limit."""
        return self.value + self.margin(errors) - self.limit


class Judge(Protocol):
    """What decides whether a variant keeps the limits."""

    def __call__(self, model: Runner) -> Sequence[LimitedFigure]:
        """Figures of one variant."""


@dataclass(frozen=True)
class DenseChoice:
    """Units that are dense, and the weights of the others.

    Attributes:
        dense: The units.
        weights: Of the others, by name.
        solved_for: What was dense when the others were solved again; None where they were not.
    """

    dense: tuple[Unit, ...]
    weights: StoredWeights
    solved_for: Dense | None = None

    @property
    def solved_again(self) -> bool:
        """Whether the others were solved again."""
        return self.solved_for is not None

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
        confirm: The same on other samples, for choices only; None where none are kept for it.
        solve_again: Solves all weights but those that are dense; None where that is not wanted.
        errors: Standard errors below the limit.
        orders: By which units are left dense; by the last one more of them, where a choice does not hold.
        curve: Every variant measured, filled as the search goes.
        reasons: By unit: why it is sparse or dense again.
    """

    graph: TracedGraph
    found: Sequence[Unit]
    sensitivity: SensitivityReport
    solved: StoredWeights
    judge: Judge
    solve_again: SolveAgain | None = None
    errors: float = ERRORS
    orders: Mapping[str, Order] = field(default_factory=lambda: ORDERS)
    confirm: Judge | None = None
    curve: list[BudgetPoint] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    _judged: dict[tuple[Dense, bool], BudgetPoint] = field(init=False, default_factory=dict)

    def run(self) -> DenseChoice:
        """The choice."""
        choice = self._found()
        near_dense = list(self.orders.values())[-1]
        for unit in [unit for unit in self._ranked(near_dense) if unit not in choice.dense]:
            if self._holds(choice):
                break
            dense = (*choice.dense, unit)
            choice = DenseChoice(dense, Restored(choice.weights, names_of(dense)), choice.solved_for)
            self.reasons[unit.name] = "dense because the choice did not hold on other samples"
        return choice

    def _holds(self, choice: DenseChoice) -> bool:
        """Whether a choice keeps the limits on other samples."""
        if self.confirm is None:
            return True
        figures = self.confirm(variant(self.graph, choice.weights))
        self.curve.append(_point(CONFIRMING, choice, figures, self.errors))
        return self.curve[-1].fits

    def _found(self) -> DenseChoice:
        """The best on the samples of the search."""
        if (nothing := self._restored("everything pruned", ())) is not None:
            return nothing
        best = min((self._in_order(name) for name in self.orders), key=lambda choice: choice.parameters)
        if self.solve_again is not None:
            best = self._sparse_again(self._shorter(best), tries=TRIES, again=True)
        return best

    def _in_order(self, name: str) -> DenseChoice:
        """The shortest prefix of an order, then single units of it sparse again."""
        ranked = self._ranked(self.orders[name])
        low, high = 0, len(ranked)  # nothing dense is too little; everything dense changes nothing
        choice = DenseChoice(tuple(ranked), Restored(self.solved, names_of(ranked)))
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._restored(name, ranked[:middle])
            low, high, choice = (low, middle, fitting) if fitting else (middle, high, choice)
        return self._sparse_again(choice, tries=len(ranked), again=False)

    def _shorter(self, best: DenseChoice) -> DenseChoice:
        """Fewer of the best choice's units, in its order, the other layers solved again; bisected."""
        ranked, low, high = best.dense, 0, len(best.dense)
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._again("the first of these", ranked[:middle])
            low, high, best = (low, middle, fitting) if fitting else (middle, high, best)
        return best

    def _sparse_again(self, best: DenseChoice, *, tries: int, again: bool) -> DenseChoice:
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

    def _ranked(self, order: Order) -> list[Unit]:
        known = {row.name: order(row, self.sensitivity.pruned) for row in self.sensitivity.units}
        return sorted(self.found, key=lambda unit: -known[unit.name])

    def _restored(self, name: str, dense: Sequence[Unit]) -> DenseChoice | None:
        return self._measured(name, DenseChoice(tuple(dense), Restored(self.solved, names_of(dense))))

    def _again(self, name: str, dense: Sequence[Unit]) -> DenseChoice | None:
        known = self._judged.get((names_of(dense), True))
        if self.solve_again is None or (known is not None and not known.fits):
            return None
        weights = self.solve_again(names_of(dense))
        choice = self._measured(name, DenseChoice(tuple(dense), weights, names_of(dense)))
        if choice is None:
            weights.clear()  # they may be gigabytes on disk
        return choice

    def _measured(self, name: str, choice: DenseChoice) -> DenseChoice | None:
        """The choice, if it keeps every limit; its point is added to the curve."""
        key = names_of(choice.dense), choice.solved_again
        if key not in self._judged:
            figures = self.judge(variant(self.graph, choice.weights))
            self._judged[key] = _point(name, choice, figures, self.errors)
            self.curve.append(self._judged[key])
        return choice if self._judged[key].fits else None


def _point(name: str, choice: DenseChoice, figures: Sequence[LimitedFigure], errors: float) -> BudgetPoint:
    worst = max(figures, key=lambda figure: figure.excess(errors))
    return BudgetPoint(
        order=name,
        layers=sum(len(unit.linears) for unit in choice.dense),
        parameters=choice.parameters,
        share=sum(unit.share for unit in choice.dense),
        metric=worst.metric,
        value=worst.value,
        error=worst.error,
        limit=worst.limit,
        fits=all(figure.fits(errors) for figure in figures),
        solved_again=choice.solved_again,
    )


def names_of(dense: Sequence[Unit]) -> Dense:
    """Stored weights of all of them."""
    return frozenset(name for unit in dense for name in unit.weights)


def _or_least(share: float) -> float:
    return max(share, 1e-6)  # a layer without operations costs nothing to leave dense
