"""Solves pieces of layers that share an input, for the worker that they are dealt to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prox24_export.passes.calibrate.moments import Moments, Observation
from prox24_export.passes.graph.lazy_tensors import LazyTensors
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.sparsify import Sparsify
from prox24_export.solver.solution import LayerSolution, LayerTask


@dataclass(frozen=True)
class SharedInput:
    """What is known of the input that some layers share. A handle is what `Workers.put` returned.

    Attributes:
        fit: A handle of the moments of the fit part.
        choice: A handle of those of the choice part; None where nothing is held back.
        residuals: As `Observation.residuals`, by name of the layer; handles.
        damping: What `Sparsify.choose_damping` chose for them.
    """

    fit: Any
    choice: Any
    residuals: Mapping[str, Mapping[str, Any]]
    damping: float


@dataclass(frozen=True)
class PieceSolver:
    """Solves pieces of layers where a worker computes.

    Attributes:
        sparsify: How layers are solved.
        linears: The layers of the run by name.
        read_weight: Reads the dense weight of a layer to where it is solved.
        read_moments: Reads the moments that a handle stands for, likewise.
        read_residual: Reads a residual that a handle stands for, likewise.
    """

    sparsify: Sparsify
    linears: Mapping[str, Linear]
    read_weight: Callable[[Linear], Tensor]
    read_moments: Callable[[Any], Moments]
    read_residual: Callable[[Any], Tensor]

    def choose_blends(self, shared: SharedInput, names: Sequence[str]) -> dict[str, float]:
        """Chooses what the solver aims at, by name, for some of the layers that share an input."""
        return self.sparsify.choose_blends(self._weights(names), self._read(shared, names), shared.damping)

    def solve_rows(
        self, shared: SharedInput, pieces: Sequence[tuple[str, slice]], blends: Mapping[str, float]
    ) -> list[LayerSolution]:
        """Solves pieces of layers that share an input, side by side.

        Args:
            shared: The input.
            pieces: Name of the layer and rows of each piece, as `cut_rows` cuts them.
            blends: What the solver aims at, by name.

        Returns:
            The solution of each piece.
        """
        names = list(dict.fromkeys(name for name, _ in pieces))
        seen, weights = self._read(shared, names), self._weights(names)
        residuals = {name: self.sparsify.join_residuals(one.residuals) for name, one in seen.items()}
        solve = self.sparsify.prepare(self.sparsify.join_moments(seen), shared.damping)
        tasks = (
            LayerTask(weights[name], blends[name], residuals[name], self.linears[name].rounding, rows)
            for name, rows in pieces
        )
        return list(solve(tasks))

    def _weights(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        return LazyTensors(lambda name: self.read_weight(self.linears[name]), tuple(names))

    def _read(self, shared: SharedInput, names: Sequence[str]) -> dict[str, Observation]:
        fit = self.read_moments(shared.fit)
        choice = None if shared.choice is None else self.read_moments(shared.choice)
        residuals = {
            name: {part: self.read_residual(one) for part, one in shared.residuals.get(name, {}).items()}
            for name in names
        }
        return {name: Observation(fit, choice, residuals[name]) for name in names}
