"""One layer from dense weight to 2:4 weight: target, mask solver, masked refinement."""

import enum
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined] # documented, but missing from the stubs

from prox24_export.settings import Method
from prox24_export.solver import baselines
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.driver import find_mask
from prox24_export.solver.gradient import ProximalGradient
from prox24_export.solver.pattern import GROUP, is_two_four, positive_zeros, two_four_mask
from prox24_export.solver.quadratic import Quadratic, automatic_damping, loss
from prox24_export.solver.refine import conjugate_gradient

ROWS_AT_ONCE = 1 << 24  # entries of W solved together; rows are independent, so this bounds memory


class Status(enum.Enum):
    """Why a layer's solver stopped; the value is the sentence the user reads."""

    SETTLED = "every group settled on its mask"
    LIMIT = "the iteration limit was reached; remaining groups keep their two largest entries"
    DIRECT = "direct method: no iterations"
    ZERO_GRAM = "the layer's input is always zero: masks by magnitude"
    ALREADY_SPARSE = "the weight was 2:4 already"
    FACTORISATION_FAILED = "the Gram matrix could not be factorised; masks by magnitude scaled with input norms"


@dataclass(frozen=True)
class SolverSettings:
    """How a layer is solved.

    Attributes:
        method: `prox` (proximal ADMM), `prox-gradient` (the paper's), or a baseline.
        damping: Share of the Gram matrix's mean diagonal that is added to it; None: from tokens per dimension.
        blend: 0 aims at the weight, 1 at the dense network's output; only with `cross`.
        mask_solver: The iteration behind `prox`.
        gradient_solver: The iteration behind `prox-gradient`.
    """

    method: Method = "prox"
    damping: float | None = None
    blend: float = 1.0
    mask_solver: ProximalAdmm = field(default_factory=ProximalAdmm)
    gradient_solver: ProximalGradient = field(default_factory=ProximalGradient)


@dataclass(frozen=True)
class LayerSolution:
    """A solved layer.

    Attributes:
        weight: 2:4 weight [N, K], dtype and device of the input, +0.0 for pruned entries.
        mask: True where an entry survives.
        loss: `tr((V−T) gram (V−T)ᵀ)`, undamped, against the target `T`.
        relative_error: `loss` relative to `tr(W gram Wᵀ)`.
        iterations: Steps of the mask solver; 0 for direct methods.
        seconds: Wall time.
        status: Why the solver stopped.
    """

    weight: Float[Tensor, "N K"]
    mask: Bool[Tensor, "N K"]
    loss: float
    relative_error: float
    iterations: int
    seconds: float
    status: Status


def solve_layer(
    weight: Float[Tensor, "N K"],
    gram: Float[Tensor, "K K"],
    cross: Float[Tensor, "K K"] | None = None,
    tokens: int | None = None,
    settings: SolverSettings | None = None,
    *,
    residual: Float[Tensor, "N K"] | None = None,
    squared_norms: Float[Tensor, " K"] | None = None,
    quadratic: Quadratic | None = None,
) -> LayerSolution:
    """Makes one weight 2:4 along its last axis, with the least change of the layer's output.

    Args:
        weight: `W`; any float dtype.
        gram: `XₛᵀXₛ` of the layer's actual input, undamped; any scale.
        cross: `X_dᵀXₛ` on the same scale, with the dense network's input `X_d`; None where both inputs are the same.
        tokens: Rows of `X`, for the automatic damping.
        settings: How to solve; None means the defaults.
        residual: `(r_d − rₛ)ᵀXₛ` on the same scale, for a branch `r` that is added to the layer's product and has
            moved away from the dense network's; the target then makes good for it too.
        squared_norms: Diagonal of `X_dᵀX_d` for Wanda, which reads the dense network; None: that of `gram`.
        quadratic: `Quadratic.of(gram, cross, damping)` where the caller shares it between layers.

    Returns:
        The solution; `solution.weight` is 2:4 whatever the status says.

    Raises:
        ValueError: Shapes do not fit, K is not a multiple of 4, or an entry is NaN or Inf.
    """
    settings = settings or SolverSettings()
    started = time.perf_counter()
    _check(weight, gram, cross)
    work = weight.double() if weight.dtype == torch.float64 else weight.float()
    if is_two_four(work):
        target, solved, iterations, status = work, work, 0, Status.ALREADY_SPARSE
    elif settings.method in {"prox", "prox-gradient"}:
        target, solved, iterations, status = _solve_prox(
            work, gram, cross, tokens=tokens, settings=settings, residual=residual, quadratic=quadratic
        )
    else:
        target, iterations = work, 0
        solved, status = _solve_baseline(work, gram, settings.method, squared_norms)
    solved = positive_zeros(solved.to(weight.dtype))
    scale = float(loss(work, torch.zeros_like(work), gram).sum())
    lost = float(loss(solved, target, gram).sum())
    return LayerSolution(
        weight=solved,
        mask=solved != 0,
        loss=lost,
        relative_error=lost / scale if scale > 0 else 0.0,
        iterations=iterations,
        seconds=time.perf_counter() - started,
        status=status,
    )


def _solve_prox(
    weight: Tensor,
    gram: Tensor,
    cross: Tensor | None,
    *,
    tokens: int | None,
    settings: SolverSettings,
    residual: Tensor | None,
    quadratic: Quadratic | None,
) -> tuple[Tensor, Tensor, int, Status]:
    if quadratic is None:
        damping = automatic_damping(tokens, weight.shape[1]) if settings.damping is None else settings.damping
        try:
            quadratic = Quadratic.of(gram, cross, damping)
        except LinAlgError:
            diagonal = gram.diagonal().clamp_min(0)
            masked = torch.where(baselines.wanda(weight, diagonal), weight, 0.0)
            return weight, masked, 0, Status.FACTORISATION_FAILED
    if quadratic.degenerate:
        return weight, torch.where(two_four_mask(weight), weight, 0.0), 0, Status.ZERO_GRAM
    target = weight
    correction = quadratic.correction(weight, residual) if settings.blend else None
    if correction is not None:
        target = weight + (settings.blend * correction).to(weight.dtype)
    pieces, iterations, settled = [], 0, True
    for rows in torch.split(target, max(1, ROWS_AT_ONCE // weight.shape[1])):
        if settings.method == "prox":
            mask, taken, all_settled = find_mask(settings.mask_solver, quadratic, rows)
        else:
            mask, taken, all_settled = find_mask(settings.gradient_solver, quadratic, rows)
        refined, _ = conjugate_gradient(rows, mask, quadratic.gram.to(rows.dtype), rows)
        pieces.append(refined)
        iterations, settled = max(iterations, taken), settled and all_settled
    return target, torch.cat(pieces), iterations, Status.SETTLED if settled else Status.LIMIT


def _solve_baseline(
    weight: Tensor, gram: Tensor, method: Method, squared_norms: Tensor | None
) -> tuple[Tensor, Status]:
    if method == "sparsegpt":
        try:
            return baselines.sparsegpt(weight, gram), Status.DIRECT
        except LinAlgError:
            mask = baselines.wanda(weight, gram.diagonal().clamp_min(0))
            return torch.where(mask, weight, 0.0), Status.FACTORISATION_FAILED
    norms = gram.diagonal() if squared_norms is None else squared_norms
    mask = baselines.wanda(weight, norms) if method == "wanda" else baselines.magnitude(weight)
    return torch.where(mask, weight, 0.0), Status.DIRECT


def _check(weight: Tensor, gram: Tensor, cross: Tensor | None) -> None:
    n, k = weight.shape
    if k % GROUP:
        raise ValueError(f"weight must have K % {GROUP} == 0. Got shape [{n}, {k}]. Leave this layer dense.")
    for name, matrix in (("gram", gram), ("cross", cross)):
        if matrix is not None and tuple(matrix.shape) != (k, k):
            raise ValueError(f"{name} must have shape (K, K) = ({k}, {k}). Got {tuple(matrix.shape)}.")
        if matrix is not None and not bool(torch.isfinite(matrix).all()):
            raise ValueError(f"{name} must be finite. Got NaN or Inf.")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite. Got NaN or Inf.")
