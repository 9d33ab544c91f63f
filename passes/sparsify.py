"""Solves each layer for its mask and weights, with settings chosen on held-back tokens. Knows no graph format."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.option_values import AIMS_AT_DENSE_OUTPUT, Effort, LayerMethod
from prox24_export.passes.calibrate.moments import Moments, Observation
from prox24_export.solver.layer import SolverSettings, solve_layers
from prox24_export.solver.quadratic import Quadratic, automatic_damping
from prox24_export.solver.solution import LayerSolution, LayerTask, Rounding

ENTRIES_AT_ONCE = 1 << 21  # entries of a float64 temporary: 16 MB
USUAL_BLEND = 0.5  # taken where no tokens are held back to choose it: half-way was never far from the best


@dataclass(frozen=True)
class SolvedLayer:
    """The solution of a layer, and the settings it was solved with.

    Attributes:
        name: Name of the layer.
        solution: The mask and the weights that the solver found.
        blend: What the solver aimed at: 0 is the dense weight, 1 is the dense network's output.
        damping: Share of the mean diagonal that was added to the Gram matrix.
        seconds: Wall time in seconds of the choice of settings and of the solution together.
    """

    name: str
    solution: LayerSolution
    blend: float
    damping: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Sparsify:
    """The pass that solves the layers of a stage, and its settings.

    Attributes:
        method: The mask solver, or a baseline to compare with.
        effort: How hard the mask solver works.
        damping: Share of its mean diagonal that is added to the diagonal of each Gram matrix. With None it follows from
            the number of tokens per input dimension.
        blend: What the solver aims at: 0 is the dense weight, 1 is the dense network's output. With None it is chosen
            on the choice part of the data.
        held_back: Whether the choice part is used to choose settings only. Otherwise layers are then solved on the fit
            and the choice part together.
        halvings: How often the pieces in which layers are solved are halved, for a device with little room.
    """

    method: LayerMethod = "prox"
    effort: Effort = "default"
    damping: float | None = None
    blend: float | None = None
    held_back: bool = False
    halvings: int = 0

    def call(
        self,
        *,
        weights: Mapping[str, Float[Tensor, "N K"]],
        observations: dict[str, Observation],
        roundings: Mapping[str, Rounding] = MappingProxyType({}),
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[SolvedLayer]:
        """Solves the layers of one stage, those that read the same input together.

        Args:
            weights: `W` by name of the layer. A weight is asked for when its layer's turn comes.
            observations: What calibration learnt about each layer's input, by name of the layer. It is emptied, and its
                moments are summed up in place, because they are the largest things a run holds.
            roundings: By name of the layer, what rounds its solved rows to what can be stored, where that is coarse.
            tick: Called once for each layer.

        Raises:
            ValueError: A weight has no observation, or a shape that does not fit its moments.
        """
        self.requires(weights, observations)
        for names in group_by_moments(observations, weights):
            seen = {name: observations.pop(name) for name in names}
            for solved in self._solve_group(weights, seen, roundings):
                tick()
                yield solved

    @staticmethod
    def requires(weights: Mapping[str, Tensor], observations: Mapping[str, Observation]) -> None:
        """Expects an observation for every weight.

        Raises:
            ValueError: A weight has none.
        """
        if missing := set(weights) - observations.keys():
            raise ValueError(f"every layer must have been observed by calibration. Got nothing for {min(missing)}.")

    def _solve_group(
        self, weights: Mapping[str, Tensor], seen: dict[str, Observation], roundings: Mapping[str, Rounding]
    ) -> Iterator[SolvedLayer]:
        """Chooses blends on held-back tokens, where there are some, and then solves on all tokens."""
        started = time.perf_counter()
        damping = self.choose_damping(next(iter(seen.values())))
        blends = self.choose_blends(weights, seen, damping)
        residuals = {name: self.join_residuals(one.residuals) for name, one in seen.items()}
        whole = self.join_moments(seen)
        solve = self.prepare(whole, damping)
        del whole
        tasks = (
            LayerTask(weights[name], blend, residuals.pop(name), roundings.get(name)) for name, blend in blends.items()
        )
        shared = (time.perf_counter() - started) / len(blends)
        for (name, blend), solution in zip(blends.items(), solve(tasks), strict=True):
            yield SolvedLayer(name, solution, blend, damping, shared + solution.seconds)

    @property
    def aims(self) -> bool:
        """Whether layers can be fitted to what the dense network gives."""
        return self.method in AIMS_AT_DENSE_OUTPUT

    def choose_damping(self, seen: Observation) -> float:
        """Chooses the damping for layers that share an observation; 0 for a baseline, which has none."""
        if not self.aims:
            return 0.0
        joined = None if self.held_back else seen.choice
        tokens = seen.fit.tokens + (0 if joined is None else joined.tokens)
        return automatic_damping(tokens, len(seen.fit.gram)) if self.damping is None else self.damping

    def choose_blends(
        self, weights: Mapping[str, Float[Tensor, "N K"]], seen: Mapping[str, Observation], damping: float
    ) -> dict[str, float]:
        """Chooses what the solver aims at, by name, for layers that share their moments; 0 for a baseline."""
        if not self.aims or self.blend is not None:
            return dict.fromkeys(seen, self.blend if self.aims and self.blend is not None else 0.0)
        first = next(iter(seen.values()))
        if first.choice is None:
            return dict.fromkeys(seen, USUAL_BLEND)
        fitted = _factorise(first.fit, damping)
        return {name: find_best_blend(weights[name], one, fitted) for name, one in seen.items()}

    def join_residuals(self, residuals: Mapping[str, Tensor]) -> Tensor | None:
        """Adds up a layer's products with its residual branch, in place, over the data that it is solved on."""
        parts = ("fit",) if self.held_back else ("fit", "choice")
        return _add_known([residuals.get(part) for part in parts])

    def join_moments(self, seen: dict[str, Observation]) -> Moments:
        """Adds up the moments that layers share, in place, over the data that they are solved on; `seen` is emptied."""
        first = next(iter(seen.values()))
        seen.clear()
        if first.choice is not None and not self.held_back:
            first.fit.add(first.choice)
        return first.fit

    def prepare(self, whole: Moments, damping: float) -> Callable[[Iterable[LayerTask]], Iterator[LayerSolution]]:
        """Prepares the solution of layers that share their moments: a Gram matrix is factorised once for all of them.

        Args:
            whole: The moments of the data that they are solved on.
            damping: What `choose_damping` chose.

        Returns:
            A function that solves layers, and yields their solutions in order.
        """
        if not self.aims:
            return partial(
                solve_layers,
                gram=whole.gram,
                settings=SolverSettings(self.method, halvings=self.halvings),
                squared_norms=whole.dense,
            )
        return partial(
            solve_layers,
            gram=whole.gram,
            cross=whole.cross,
            tokens=whole.tokens,
            settings=SolverSettings(self.method, self.effort, damping=damping, halvings=self.halvings),
            quadratic=_factorise(whole, damping),
        )


def group_by_moments(observations: Mapping[str, Observation], names: Iterable[str]) -> list[list[str]]:
    """Groups layers that read the same value, and so share its moments."""
    sharers: dict[int, list[str]] = {}
    for name in names:
        sharers.setdefault(id(observations[name].fit), []).append(name)
    return list(sharers.values())


def _factorise(moments: Moments, damping: float) -> Quadratic | None:
    """Factorises the damped Gram matrix. None where that cannot be done."""
    try:
        return Quadratic.of(moments.gram, moments.cross, damping)
    except LinAlgError:
        return None


def _add_known(parts: list[Tensor | None]) -> Tensor | None:
    """Adds up the parts that are there; the first one then holds the sum. None where no part is there."""
    known = [part for part in parts if part is not None]
    return None if not known else known[0] if len(known) == 1 else known[0].add_(known[1])


def find_best_blend(weight: Float[Tensor, "N K"], seen: Observation, fitted: Quadratic | None) -> float:
    """Finds the blend in [0, 1] with which the layer comes closest to the dense network's output on held-back tokens.

    With `D = T − W` fitted on `seen.fit`, the held-back error `‖Xₛ(W + bD)ᵀ + rₛ − X_dWᵀ − r_d‖²` is a parabola in `b`.

    Args:
        weight: The dense weight `W`.
        seen: What calibration learnt about the layer's input.
        fitted: The quadratic of `seen.fit`; None where its Gram matrix could not be factorised.

    Returns:
        The blend. It is 0 where nothing is held back, or where there is no factorisation.
    """
    held = seen.choice
    if held is None or fitted is None:
        return 0.0
    sums = torch.zeros(2, dtype=torch.float64, device=weight.device)  # gain and curvature, which are read once
    rows = max(1, ENTRIES_AT_ONCE // weight.shape[1])
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        wide = weight[part].double()
        residuals = {name: residual[part] for name, residual in seen.residuals.items()}
        correction = fitted.correction(weight[part], residuals.get("fit"))
        if correction is None:
            return 0.0
        wanted = (wide @ held.cross).sub_(wide @ held.gram)
        if "choice" in residuals:
            wanted += residuals["choice"]
        sums[0] += (wanted * correction).sum()
        sums[1] += ((correction @ held.gram) * correction).sum()
    gain, curvature = sums.tolist()
    return min(1.0, max(0.0, gain / curvature)) if curvature > 0 else 0.0
