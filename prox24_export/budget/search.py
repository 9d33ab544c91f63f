"""The search for the fewest layers to leave dense: sensitivity gives the orders, and every step is a measurement.

Of many variants that are measured on the same samples, the best one is partly the luckiest. So the choice has to hold
on other samples as well. Where it does not, more layers are left dense, in the order of what they gain, until it does.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prox24_export.budget.sensitivity import DenseNames, Restored, Unit, make_variant
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import Runner, TracedGraph
from prox24_export.results.budget import CONFIRMING, BudgetPoint, SensitivityReport, UnitSensitivity

ERRORS = 1.0  # the number of standard errors by which a change must stay below its limit
ROUNDING = 1e-9  # the excess up to which a change still keeps its limit
TRIES = 8  # the number of units that are tried sparse again with all others solved again

StoredWeights = Mapping[str, Array]
SolveAgain = Callable[[DenseNames], MutableMapping[str, Array]]
Order = Callable[[UnitSensitivity, float], float]  # the unit of largest value comes first

ORDERS: Mapping[str, Order] = {
    "loss gained where dense, per share of the expected gain": lambda unit, pruned: (
        (pruned - unit.restored) / _bound_share(unit.share)
    ),
    "loss gained where dense, per parameter": lambda unit, pruned: (pruned - unit.restored) / unit.parameters,
    "loss where pruned alone, per share of the expected gain": lambda unit, _: unit.alone / _bound_share(unit.share),
    "loss where pruned alone, per parameter": lambda unit, _: unit.alone / unit.parameters,
}
RELATIVE_ERROR: Mapping[str, Order] = {"relative error": lambda unit, _: unit.relative_error}  # to compare with


@dataclass(frozen=True)
class LimitedFigure:
    """A metric's change for the worse on the samples of the search; all figures are in the metric's unit.

    Attributes:
        metric: Name of the metric.
        value: The change.
        own: Standard error of `value`.
        error: Standard error, about `value`, of the figure that the report will hold, measured on other samples.
        limit: The largest change allowed.
    """

    metric: str
    value: float
    own: float
    error: float
    limit: float

    def margin(self, errors: float) -> float:
        """How far `value` has to stay below the limit: `errors` standard errors of the report's figure.

        They count for at most half of the limit, though never for less than as many of `value`'s own: where hits that
        are counted scatter by more than may be lost, dense layers hardly help, but more samples do.
        """
        return max(errors * self.own, min(errors * self.error, self.limit / 2))

    def fits(self, errors: float) -> bool:
        """Whether the change keeps its margin below the limit, but for rounding."""
        return self.excess(errors) <= ROUNDING

    def excess(self, errors: float) -> float:
        """By how much the change and its margin together exceed the limit; negative where they keep it."""
        return self.value + self.margin(errors) - self.limit


class Judge(Protocol):
    """Measures a variant of the model against the limits."""

    def __call__(self, model: Runner) -> Sequence[LimitedFigure]:
        """The figures of one variant, one for each metric with a limit."""


@dataclass(frozen=True)
class DenseChoice:
    """Units that are left dense, and the weights of the others.

    Attributes:
        dense: The units that are left dense.
        weights: The sparse weights of the others, by name.
        solved_for: The weights that were dense when the others were solved again; None where they were not.
    """

    dense: tuple[Unit, ...]
    weights: StoredWeights
    solved_for: DenseNames | None = None

    @property
    def solved_again(self) -> bool:
        """Whether the others were solved again."""
        return self.solved_for is not None

    @property
    def parameters(self) -> int:
        """The number of entries of the weights that are left dense."""
        return sum(unit.parameters for unit in self.dense)


@dataclass
class Search:
    """Finds the choice with the fewest dense parameters that keeps the limits.

    Attributes:
        graph: The dense model.
        found: The units, in network order.
        sensitivity: The sensitivity of each unit.
        solved: Every pruned weight, by name.
        judge: Measures a variant.
        confirm: Measures a choice on other samples; None where there are none for it.
        solve_again: Solves all weights but those that are dense; None where that is not wanted.
        errors: The number of standard errors by which a change must stay below its limit.
        orders: The orders in which units are left dense. By the last one, more of them are left dense where a choice
            does not hold.
        curve: Every variant that was measured, filled as the search goes.
        reasons: Why a unit that was tried again is sparse or dense, by name.
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
    _judged: dict[tuple[DenseNames, bool], BudgetPoint] = field(init=False, default_factory=dict)

    def run(self) -> DenseChoice:
        """Finds the choice that holds on the samples of the search and on the other samples."""
        choice = self._find_best()
        near_dense = list(self.orders.values())[-1]
        for unit in [unit for unit in self._rank(near_dense) if unit not in choice.dense]:
            if self._holds(choice):
                break
            dense = (*choice.dense, unit)
            choice = DenseChoice(dense, Restored(choice.weights, list_weights(dense)), choice.solved_for)
            self.reasons[unit.name] = "dense because the choice did not hold on other samples"
        return choice

    def _holds(self, choice: DenseChoice) -> bool:
        """Whether a choice keeps the limits on other samples."""
        if self.confirm is None:
            return True
        figures = self.confirm(make_variant(self.graph, choice.weights))
        self.curve.append(_make_point(CONFIRMING, choice, figures, self.errors))
        return self.curve[-1].fits

    def _find_best(self) -> DenseChoice:
        """The choice with the fewest dense parameters on the samples of the search."""
        if (all_pruned := self._try_restored("everything pruned", ())) is not None:
            return all_pruned
        best = min((self._search_order(name) for name in self.orders), key=lambda choice: choice.parameters)
        if self.solve_again is not None:
            best = self._try_sparse_again(self._shorten(best), tries=TRIES, again=True)
        return best

    def _search_order(self, name: str) -> DenseChoice:
        """Bisects for the shortest prefix of an order that fits, then tries its units sparse again one by one."""
        ranked = self._rank(self.orders[name])
        low, high = 0, len(ranked)  # nothing dense is too little; everything dense changes nothing
        choice = DenseChoice(tuple(ranked), Restored(self.solved, list_weights(ranked)))
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._try_restored(name, ranked[:middle])
            low, high, choice = (low, middle, fitting) if fitting else (middle, high, choice)
        return self._try_sparse_again(choice, tries=len(ranked), again=False)

    def _shorten(self, best: DenseChoice) -> DenseChoice:
        """Bisects for fewer of the best choice's units, in its order, with the other layers solved again."""
        ranked, low, high = best.dense, 0, len(best.dense)
        while high - low > 1:
            middle = (low + high) // 2
            fitting = self._try_solved_again("the first of these", ranked[:middle])
            low, high, best = (low, middle, fitting) if fitting else (middle, high, best)
        return best

    def _try_sparse_again(self, best: DenseChoice, *, tries: int, again: bool) -> DenseChoice:
        """Makes single units sparse again where the choice still fits, the largest first; each is tried once."""
        for unit in sorted(best.dense, key=lambda unit: -unit.parameters)[:tries]:
            fewer = tuple(other for other in best.dense if other is not unit)
            if not fewer:
                break  # all pruned was measured first
            title = f"{unit.name} sparse again"
            fitting = self._try_solved_again(title, fewer) if again else self._try_restored(title, fewer)
            point = self._judged[list_weights(fewer), again]
            figures = f"{point.metric} then loses {point.value:.3g} ± {point.error:.2g}, limit {point.limit:g}"
            self.reasons[unit.name] = f"{'sparse again' if fitting else 'not sparse again'}: {figures}"
            best = fitting or best
        return best

    def _rank(self, order: Order) -> list[Unit]:
        """The units in this order, the first to leave dense first."""
        known = {row.name: order(row, self.sensitivity.pruned) for row in self.sensitivity.units}
        return sorted(self.found, key=lambda unit: -known[unit.name])

    def _try_restored(self, name: str, dense: Sequence[Unit]) -> DenseChoice | None:
        """The choice of these units with the other weights as they were solved; None where it does not fit."""
        return self._measure(name, DenseChoice(tuple(dense), Restored(self.solved, list_weights(dense))))

    def _try_solved_again(self, name: str, dense: Sequence[Unit]) -> DenseChoice | None:
        """The choice of these units with the others solved again; None where that is not wanted or does not fit."""
        known = self._judged.get((list_weights(dense), True))
        if self.solve_again is None or (known is not None and not known.fits):
            return None
        weights = self.solve_again(list_weights(dense))
        choice = self._measure(name, DenseChoice(tuple(dense), weights, list_weights(dense)))
        if choice is None:
            weights.clear()  # they may be gigabytes on disk
        return choice

    def _measure(self, name: str, choice: DenseChoice) -> DenseChoice | None:
        """Measures a choice once and adds its point to the curve; None where it breaks a limit."""
        key = list_weights(choice.dense), choice.solved_again
        if key not in self._judged:
            figures = self.judge(make_variant(self.graph, choice.weights))
            self._judged[key] = _make_point(name, choice, figures, self.errors)
            self.curve.append(self._judged[key])
        return choice if self._judged[key].fits else None


def _make_point(name: str, choice: DenseChoice, figures: Sequence[LimitedFigure], errors: float) -> BudgetPoint:
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


def list_weights(dense: Sequence[Unit]) -> DenseNames:
    """The names of the stored weights of these units."""
    return frozenset(name for unit in dense for name in unit.weights)


def _bound_share(share: float) -> float:
    return max(share, 1e-6)  # a layer without operations costs nothing to leave dense
