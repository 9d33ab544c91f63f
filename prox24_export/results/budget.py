"""What a run found out about leaving layers dense: sensitivity of every layer, the search's curve, each decision."""

from dataclasses import dataclass
from typing import Literal

Kept = Literal["kept", "not needed", "only dense"]


@dataclass(frozen=True)
class UnitSensitivity:
    """One layer, or the layers of one stage where there are many, and what the outputs gain from it.

    Attributes:
        name: Node; of a stage its first layer's, with the number of the others.
        layers: Nodes of all its layers.
        stage: In which it is solved, from 0.
        parameters: Entries of its weights.
        share: Of the floating-point operations of all layers that were pruned: of the gain that is expected.
        relative_error: Of its layers, the largest; against its own target.
        restored: Loss at the outputs of the pruned model with this alone left dense.
        alone: Loss at the outputs of the dense model with this alone pruned.
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
    """Measured on unlabelled samples; a loss is the mean over samples, 0 for the dense model.

    Attributes:
        samples: How many.
        measures: How each output is compared with the dense model's, such as `kl`, `logits`, `cosine` or `mse`.
        pruned: Loss with everything pruned.
        units: In network order.
    """

    samples: int
    measures: tuple[str, ...]
    pruned: float
    units: tuple[UnitSensitivity, ...]


CONFIRMING = "on other samples"  # the order's name of a choice that was measured on samples kept for it


@dataclass(frozen=True)
class BudgetPoint:
    """One measured variant of the model.

    Attributes:
        order: By what the layers to leave dense were ordered; or what else was tried.
        layers: How many are dense.
        parameters: Entries of their weights.
        share: Of the expected gain that they would have had.
        metric: Whose limit is the hardest to keep there.
        value: Its change for the worse.
        error: Standard error of the figure that the report will hold, on other samples, about `value`.
        limit: What it may be.
        fits: Whether `value` and the margin of errors are within the limits of all metrics.
        solved_again: Whether the other layers were solved again, with these dense.
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
    """One layer, or the layers of one stage: how it ends, and the measurement behind it."""

    name: str
    state: Literal["sparse", "dense"]
    reason: str


@dataclass(frozen=True)
class BudgetReport:
    """The search for the fewest layers to leave dense.

    Attributes:
        samples: On which it was decided. They are in no figure of the report.
        errors: Standard errors by which a change had to stay below its limit, at most half of it.
        sensitivity: By which layers were ordered.
        curve: Every variant that was measured, in the order of the search.
        decisions: Of every unit, in network order.
        dense: Nodes that are left dense to keep the limit.
        parameters: Entries of their weights.
        solved_again: Whether the other layers were solved again with these dense.
        verdict: `not needed` where all may be sparse, `only dense` where none may be.
        seconds: Wall time.
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
        """The variant that was chosen, on the samples that it had to hold on; None where nothing was measured."""
        fitting = [point for point in self.curve if point.fits]
        if held := [point for point in fitting if point.order == CONFIRMING]:
            return held[-1]
        return min(fitting, key=lambda point: point.parameters) if fitting else None
