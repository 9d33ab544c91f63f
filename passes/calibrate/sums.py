"""What a stage's inputs add up to, over some of the batches or over all of them."""

from dataclasses import dataclass, field

from torch import Tensor

from prox24_export.passes.calibrate.moments import Moments
from prox24_export.passes.graph.activations import View
from prox24_export.passes.graph.experts import Expert

ObservedView = tuple[str, View, Expert | None]  # layers for which all three are equal share one Gram matrix


@dataclass(eq=False)
class StageSums:
    """Sums over batches of what a stage observes.

    Attributes:
        moments: Moments by view and by part of the data.
        residuals: Products with the residual branch by name of the layer and by part; see `Observation`.
    """

    moments: dict[ObservedView, dict[str, Moments]] = field(default_factory=dict)
    residuals: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, other: "StageSums") -> None:
        """Adds the sums over other batches, which must not be used afterwards: what is new here is taken as it is."""
        for view, parts in other.moments.items():
            known = self.moments.setdefault(view, {})
            for part, moments in parts.items():
                if part in known:
                    known[part].add(moments)
                else:
                    known[part] = moments
        for layer, products in other.residuals.items():
            totals = self.residuals.setdefault(layer, {})
            for part, product in products.items():
                totals[part] = totals[part].add_(product) if part in totals else product
