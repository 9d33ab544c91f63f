"""What a run found out about leaving layers dense: sensitivity of every layer, the curve of the search, decisions."""

from dataclasses import dataclass
from typing import Literal

Kept = Literal["kept", "not needed", "only dense"]


@dataclass(frozen=True)
class UnitSensitivity:
    """One layer, or the layers of one stage where there are many, and how much the outputs depend on it.

    Attributes:
        name: Node name of the layer; for a stage the name of its first layer and the number of the others.
        layers: Node names of all its layers.
        stage: Index of the stage in which it is solved, from 0.
        parameters: Number of entries of its weights.
        share: Its share of the floating-point operations of all pruned layers, and so of the gain that is expected.
        relative_error: Relative error against the layer's own target; the largest where there are several layers.
        restored: Loss at the outputs of the pruned model with this unit alone left dense.
        alone: Loss at the outputs of the dense model with this unit alone pruned.
    """

    name: str
    layers: tuple[str, ...]
    stage: int
    parameters: int
    share: float
    relative_error: float
    restored: float
    alone: float


@dataclass(frozen=True)
class SensitivityReport:
    """How much the outputs depend on each layer, measured on unlabelled samples.

    A loss is the mean over samples; it is 0 for the dense model.

    Attributes:
        samples: Number of samples that were measured on.
        measures: How each output is compared with the dense model's, such as `kl`, `logits`, `cosine` or `mse`.
        pruned: Loss with every layer pruned.
        units: The units, in network order.
    """

    samples: int
    measures: tuple[str, ...]
    pruned: float
    units: tuple[UnitSensitivity, ...]


CONFIRMING = "on other samples"  # the `order` of a choice that was measured on samples kept for that


@dataclass(frozen=True)
class BudgetPoint:
    """One variant of the model that was measured.

    Attributes:
        order: The order in which layers were left dense, or what else was tried.
        layers: Number of layers that are dense.
        parameters: Number of entries of the dense layers' weights.
        share: Share of the expected gain that the dense layers would have had.
        metric: Name of the metric whose limit is the hardest to keep here.
        value: Change of the metric for the worse, in its own unit.
        error: Standard error, about `value`, of the figure that the report will hold, measured on other samples.
        limit: The largest change allowed.
        fits: Whether every metric's change stays within its limit by the margin of errors.
        solved_again: Whether the other layers were solved again with these dense.
    """

    order: str
    layers: int
    parameters: int
    share: float
    metric: str
    value: float
    error: float
    limit: float
    fits: bool
    solved_again: bool


@dataclass(frozen=True)
class BudgetDecision:
    """How one layer, or the layers of one stage, end, and the measurement behind it.

    Attributes:
        name: Name of the unit, as in `sensitivity.units`.
        state: `sparse` or `dense`.
        reason: What was measured of the unit, in one line.
    """

    name: str
    state: Literal["sparse", "dense"]
    reason: str


@dataclass(frozen=True)
class BudgetReport:
    """The search for the fewest layers to leave dense.

    Attributes:
        samples: Number of samples that the search looked at; they are in no figure of the report.
        errors: Number of standard errors by which a change had to stay below its limit; they count for at most half of
            it.
        sensitivity: The sensitivity of every layer, from which the orders of the search follow.
        curve: Every variant that was measured, in the order of the search.
        decisions: The decision on every unit, in network order.
        dense: Node names of the layers that are left dense to keep the limit.
        parameters: Number of entries of the dense layers' weights.
        solved_again: Whether the other layers were solved again with these dense.
        verdict: `kept`; `not needed` where every layer may be sparse; or `only dense` where none may be.
        seconds: Wall time of the search.
    """

    samples: int
    errors: float
    sensitivity: SensitivityReport
    curve: tuple[BudgetPoint, ...]
    decisions: tuple[BudgetDecision, ...]
    dense: tuple[str, ...]
    parameters: int
    solved_again: bool
    verdict: Kept
    seconds: float = 0.0

    @property
    def ending(self) -> BudgetPoint | None:
        """The chosen variant on the samples on which it had to hold; None where no measured variant fits."""
        fitting = [point for point in self.curve if point.fits]
        if held := [point for point in fitting if point.order == CONFIRMING]:
            return held[-1]
        return min(fitting, key=lambda point: point.parameters) if fitting else None
