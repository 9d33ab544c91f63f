"""Per layer: settings chosen on held-back tokens, mask solver, masked refinement. Knows no graph format."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.passes.calibrate import Moments, Observation
from prox24_export.settings import AIMS_AT_DENSE_OUTPUT, Settings
from prox24_export.solver.layer import LayerSolution, SolverSettings, solve_layer
from prox24_export.solver.quadratic import Quadratic, automatic_damping

USUAL_BLEND = 0.5  # where no tokens are held back to choose it: half-way was never far from the best


@dataclass(frozen=True)
class Solved:
    """A layer's solution, the settings it was solved with, and the wall seconds of both together."""

    solution: LayerSolution
    blend: float
    damping: float
    seconds: float = 0.0


class _Quadratics:
    """Factorises each Gram matrix once, for all layers of a stage that read the same input."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float], tuple[Moments, Quadratic | None]] = {}

    def of(self, moments: Moments, damping: float) -> Quadratic | None:
        """None where the matrix cannot be factorised."""
        key = (id(moments), damping)
        if key not in self._known:
            try:
                quadratic = Quadratic.of(moments.gram, moments.cross, damping)
            except LinAlgError:
                quadratic = None
            self._known[key] = (moments, quadratic)
        return self._known[key][1]


@dataclass(frozen=True)
class Sparsify:
    """Settings of the pass."""

    settings: Settings

    def call(
        self,
        weights: Mapping[str, Float[Tensor, "N K"]],
        observations: Mapping[str, Observation],
        tick: Callable[[], None],
    ) -> dict[str, Solved]:
        """Solves the layers of one stage; calls `tick` once a layer.

        Args:
            weights: `W` by layer.
            observations: What calibration learnt of each layer's input.
            tick: Progress.
        """
        quadratics = _Quadratics()
        whole: dict[int, Moments] = {}
        result = {}
        for name, weight in weights.items():
            started = time.perf_counter()
            seen = observations[name]
            shared = id(seen.fit)  # layers that read the same value share its moments
            if shared not in whole:
                whole[shared] = seen.fit + seen.choice if seen.choice else seen.fit
            if self.settings.method in AIMS_AT_DENSE_OUTPUT:
                result[name] = self._aimed(weight, seen, whole[shared], quadratics)
            else:
                result[name] = self._baseline(weight, whole[shared])
            result[name] = replace(result[name], seconds=time.perf_counter() - started)
            tick()
        return result

    def _aimed(self, weight: Tensor, seen: Observation, whole: Moments, quadratics: _Quadratics) -> Solved:
        """Blend from held-back tokens, where there are some; then solved on all tokens."""
        width = weight.shape[1]
        damping = self.settings.damping
        if damping is None:
            damping = automatic_damping(whole.tokens, width)
        blend = self.settings.blend
        if blend is None:
            blend = best_blend(weight, seen, quadratics.of(seen.fit, damping)) if seen.choice else USUAL_BLEND
        settings = SolverSettings(self.settings.method, self.settings.effort, damping=damping, blend=blend)
        residual = torch.stack(list(seen.residuals.values())).sum(0) if seen.residuals else None
        solution = solve_layer(
            weight,
            whole.gram,
            whole.cross,
            whole.tokens,
            settings,
            residual=residual,
            quadratic=quadratics.of(whole, damping),
        )
        return Solved(solution, blend, damping)

    def _baseline(self, weight: Tensor, moments: Moments) -> Solved:
        settings = SolverSettings(method=self.settings.method)
        solution = solve_layer(weight, moments.gram, settings=settings, squared_norms=moments.dense)
        return Solved(solution, 0.0, 0.0)


def best_blend(weight: Float[Tensor, "N K"], seen: Observation, fitted: Quadratic | None) -> float:
    """The blend in [0, 1] whose dense target comes closest to the dense network's output on held-back tokens.

    With `D = T − W` fitted on `seen.fit`, the held-back error `‖Xₛ(W + bD)ᵀ + rₛ − X_dWᵀ − r_d‖²` is a parabola in `b`.

    Args:
        weight: `W`.
        seen: Moments of both parts; `choice` must be there.
        fitted: The quadratic of `seen.fit`; None where its Gram matrix could not be factorised.
    """
    held = seen.choice
    correction = None if fitted is None else fitted.correction(weight, seen.residuals.get("fit"))
    if held is None or correction is None:
        return 0.0
    wanted = weight.double() @ (held.cross - held.gram)
    if "choice" in seen.residuals:
        wanted = wanted + seen.residuals["choice"]
    curvature = float(((correction @ held.gram) * correction).sum())
    if curvature <= 0:
        return 0.0
    return min(1.0, max(0.0, float((wanted * correction).sum()) / curvature))
