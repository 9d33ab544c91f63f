"""Layers whose harm adds up, so that a search over them runs no model and its best answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from prox24_export.budget.search import DenseChoice, LimitedFigure, Search
from prox24_export.budget.sensitivity import Unit
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear
from prox24_export.results.budget import SensitivityReport, UnitSensitivity


@dataclass
class Additive(Search):
    """Layers whose harm adds up: no model is run."""

    harm: dict[str, float] = field(default_factory=dict)
    chosen: float = 0.0  # what is left of the harm of the last choice
    helped: float = 1.0  # by which harm shrinks where layers are solved again

    def _measure(self, name: str, choice: DenseChoice) -> DenseChoice | None:
        self.judge = lambda _: [self._figure(choice)]
        return super()._measure(name, choice)

    def _holds(self, choice: DenseChoice) -> bool:
        self.chosen = self._figure(choice).value
        return super()._holds(choice)

    def _figure(self, choice: DenseChoice) -> LimitedFigure:
        left = sum(self.harm.values()) - sum(self.harm[unit.name] for unit in choice.dense)
        return LimitedFigure("m", left * (self.helped if choice.solved_again else 1.0), 0.0, 0.0, LIMIT)


LIMIT = 1.0


def additive(harm: Sequence[float], sizes: Sequence[int], errors: Sequence[float], **more: Any) -> Additive:
    names = [f"layer{index}" for index in range(len(harm))]
    layers = [
        Linear(name, "MatMul", f"w{index}", "float32", Layout((size, 4)), 4, size, ())
        for index, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    units = [Unit(layer.name, (layer,), 0, layer.parameters / sum(4 * s for s in sizes)) for layer in layers]
    rows = tuple(
        UnitSensitivity(unit.name, (unit.name,), 0, unit.parameters, unit.share, error, sum(harm) - one, one)
        for unit, one, error in zip(units, harm, errors, strict=True)
    )
    report = SensitivityReport(1, ("mse",), sum(harm), rows)
    known = dict(zip(names, harm, strict=True))
    return Additive(None, units, report, {}, lambda _: [], harm=known, **more)  # type: ignore[arg-type] # no graph


LAYERS = st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 64)), min_size=1, max_size=7)
