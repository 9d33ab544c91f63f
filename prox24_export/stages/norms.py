"""Masks that read no Gram matrix: by magnitude, or by magnitude and the norms of the inputs.

A Gram matrix takes the square of the width, and these methods read it for one figure alone, the layer's error. Where it
would be large it is left out, and the error with it.
"""

import math
import time

import torch
from torch import Tensor

from prox24_export.option_values import Method
from prox24_export.passes.calibrate.moments import Observation
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.sparsify import SolvedLayer
from prox24_export.solver import LayerSolution, Status, baselines
from prox24_export.solver.pattern import is_two_four, positive_zeros

WIDEST_MEASURED = 2048  # columns of a Gram matrix that is made for the error alone: 32 MB
BY_NORMS: frozenset[Method] = frozenset({"magnitude", "wanda"})


def find_widest(method: Method) -> int | None:
    """Finds the most columns of an input of which a method needs the Gram matrix; None for any number."""
    return WIDEST_MEASURED if method in BY_NORMS else None


def mask_by_norms(linear: Linear, weight: Tensor, seen: Observation, method: Method, *, held_back: bool) -> SolvedLayer:
    """Prunes a layer of which only the norms of the inputs are known, as `solve_layer` does with the Gram matrix.

    Args:
        linear: The layer.
        weight: Its `W` [N, K].
        seen: What calibration learnt about the layer's input.
        method: `magnitude` or `wanda`.
        held_back: Whether the choice part is left out of the norms.

    Returns:
        The solution; its loss and error are NaN, since nobody measured them.
    """
    started = time.perf_counter()
    norms = seen.fit.dense if seen.choice is None or held_back else seen.fit.dense + seen.choice.dense
    work = weight if weight.dtype == torch.float64 else weight.float()
    status = Status.ALREADY_SPARSE if is_two_four(work) else Status.DIRECT
    if status is Status.DIRECT:
        mask = baselines.magnitude(work) if method == "magnitude" else baselines.wanda(work, norms)
        work = torch.where(mask, work, 0.0)
    if linear.rounding is not None:
        work = linear.rounding(work, slice(0, len(work)))
    sparse = positive_zeros(work.to(weight.dtype))
    seconds = time.perf_counter() - started
    solution = LayerSolution(sparse, sparse != 0, math.nan, math.nan, 0, 0, seconds, status)
    return SolvedLayer(linear.name, solution, 0.0, 0.0, seconds)
