"""The proximal operator of the 2:4 regulariser, exact for every group (arXiv 2501.18015, section 3).

    prox_s(z) = argmin_w ½‖w − z‖² + s·R(w),    R(w) = |w1w2w3| + |w2w3w4| + |w3w4w1| + |w4w1w2|

`R` vanishes exactly when at most two of the four entries are non-zero. The problem is not convex; the global minimiser
is found as the best of at most three stationary points (two, three or four non-zeros), each the root of one scalar
equation. The mathematics is written out in `prox_math`. `kernels_cpu` serves CPU tensors and `kernels_cuda` serves CUDA
tensors where Triton is installed; `prox24_reference` states it again in plain torch and serves everything else.

Where several points are minimisers the one with fewer non-zeros is taken, and among equal magnitudes the lower index is
kept. Zeros are +0.0. A strength of 0 returns the input, a large one keeps the two largest of each group as they are.
"""

import importlib.util
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from prox24_export.errors import first_line
from prox24_export.solver import kernels_cpu, prox_math
from prox24_export.solver.pattern import GROUP, KEPT, groups_of_four, positive_zeros
from prox24_export.solver.threads import start_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KERNEL_DTYPES = (torch.float32, torch.float64)
MAX_STEPS = 100
MAX_PASSES = 200


def prox24(weight: Float[Tensor, "..."], strength: float) -> Float[Tensor, "..."]:
    """`argmin_w ½‖w − weight‖² + strength·R(w)` for every group of four consecutive entries of the last axis.

    Args:
        weight: any shape whose last axis is a multiple of four, any float dtype, any device. Finite. No gradient.
        strength: `s ≥ 0`, finite.

    Returns:
        A new tensor of the shape, dtype and device of `weight`. Signs are kept, no magnitude grows, and the order of
        magnitudes within a group is kept. Computed in float64 and rounded once.

    Raises:
        ValueError: the last axis does not split into groups, a value is not finite, or the strength is negative or not
            finite.

    Cost: 12 to 36 ns a group and core on CPU, nothing allocated but the result (float16 and bfloat16: two float64
    copies).
    """
    groups = groups_of_four(weight.detach())
    strength = _check_strength(strength)
    if not torch.isfinite(groups).all():
        raise ValueError(
            f"weight must be finite. Got {int((~torch.isfinite(groups)).sum())} NaN or infinite entries in shape "
            f"{tuple(weight.shape)}. Repair the weight before pruning it."
        )
    source = groups.reshape(-1, GROUP).contiguous()
    source = source if source.dtype in KERNEL_DTYPES else source.double()
    solved = torch.empty_like(source)
    if _on_cpu(source):
        start_threads()
        kernels_cpu.prox(source.numpy(), solved.numpy(), strength)
    elif _has_triton_kernels(source):
        from prox24_export.solver import kernels_cuda  # noqa: PLC0415 - only where Triton is installed

        kernels_cuda.prox(source, solved, strength)
    else:
        solved.copy_(prox24_reference(source, strength))
    return _round_once(solved, weight.dtype).reshape(weight.shape)


def splitting_step(  # noqa: PLR0917 - the symbols of its formula
    product: Float[Tensor, "N K"],
    gap: Float[Tensor, "N K"],
    sparse: Float[Tensor, "N K"],
    target: Float[Tensor, "N K"],
    strength: float,
    shrink: float,
) -> tuple[int, int]:
    """The prox and dual step of ADMM, in place and in one pass over memory.

    With `T` the target and `U` the dual:

        V = product + Z − gap,    Z ← prox_s(V),    U ← shrink·(V − Z),    gap ← Z − U − T

    Before, `gap` is `Z − U − T` of the last step and `product` is `gap·ρ(H+ρI)⁻¹`, that is `X − T`; so `V = X + U`, and
    neither `X` nor `U` has to be stored.

    Args:
        product: contiguous float32 or float64. Finite, which is not checked.
        gap: as `product`; overwritten.
        sparse: `Z`, as `product`; overwritten, its old support is compared with the new one.
        target: as `product`.
        strength: `s ≥ 0`, finite.
        shrink: old penalty / new penalty, where the penalty changes after this step; else 1.

    Returns:
        The number of groups left with more than two non-zeros, and the number of groups whose support changed.

    Raises:
        ValueError: shapes, dtypes or strides do not fit, or the strength is negative or not finite.
    """
    strength = _check_strength(strength)
    _check_alike(product=product, gap=gap, sparse=sparse, target=target)
    if _on_cpu(product):
        start_threads()
        counts = kernels_cpu.splitting_step(*map(_view_rows, (product, gap, sparse, target)), strength, shrink)
        return int(counts[0]), int(counts[1])
    if _has_triton_kernels(product):
        from prox24_export.solver import kernels_cuda  # noqa: PLC0415 - only where Triton is installed

        return kernels_cuda.splitting_step(product, gap, sparse, target, strength, shrink)
    v = product.double() + (sparse.double() - gap.double())
    z, counts = _solve_and_count(v, sparse, strength)
    gap.copy_(z - shrink * (v - z) - target.double())
    sparse.copy_(z)
    return counts


def gradient_step(  # noqa: PLR0917 - the symbols of its formula
    product: Float[Tensor, "N K"],
    gap: Float[Tensor, "N K"],
    sparse: Float[Tensor, "N K"],
    target: Float[Tensor, "N K"],
    strength: float,
    eta: float,
    momentum: float,
) -> tuple[int, int]:
    """A proximal gradient step with momentum, in place and in one pass over memory.

    With `T` the target:

        Z' = prox_s(T + gap − η·product),    gap ← Z' + momentum·(Z' − Z) − T,    Z ← Z'

    Before, `gap` is where the gradient was taken, less `T`, and `product` is `gap·H`.

    Args, returns, raises: as `splitting_step`; `eta` is `η`, the length of the step.
    """
    strength = _check_strength(strength)
    _check_alike(product=product, gap=gap, sparse=sparse, target=target)
    if _on_cpu(product):
        start_threads()
        counts = kernels_cpu.gradient_step(*map(_view_rows, (product, gap, sparse, target)), strength, eta, momentum)
        return int(counts[0]), int(counts[1])
    if _has_triton_kernels(product):
        from prox24_export.solver import kernels_cuda  # noqa: PLC0415 - only where Triton is installed

        return kernels_cuda.gradient_step(product, gap, sparse, target, strength, eta, momentum)
    v = target.double() + gap.double() - eta * product.double()
    z, counts = _solve_and_count(v, sparse, strength)
    gap.copy_(z + momentum * (z - sparse.double()) - target.double())
    sparse.copy_(z)
    return counts


def _solve_and_count(v: Tensor, sparse: Tensor, strength: float) -> tuple[Tensor, tuple[int, int]]:
    z = prox24_reference(v, strength)
    was, now = groups_of_four(sparse) != 0, groups_of_four(z) != 0
    return z, (int((now.sum(dim=-1) > KEPT).sum()), int((was != now).any(dim=-1).sum()))


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


@cache
def _is_triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _has_triton_kernels(tensor: Tensor) -> bool:
    """Whether the Triton kernels can serve this tensor."""
    return tensor.device.type == "cuda" and _is_triton_installed() and find_kernel_fault(tensor.device) is None


@cache
def find_kernel_fault(device: torch.device) -> str | None:
    """Finds out why the Triton kernels cannot be used on a GPU, by using one, in a few words.

    Returns:
        None where they can, or where Triton is not installed. Triton compiles them on the machine that they run on,
        with that machine's C compiler, for GPUs that it supports.
    """
    if not _is_triton_installed():
        return None
    try:
        from prox24_export.solver import kernels_cuda  # noqa: PLC0415 - only where Triton is installed

        kernels_cuda.prox(torch.ones(GROUP, device=device), torch.empty(GROUP, device=device), 1.0)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler, a driver and the system have their own; torch does the work
        return first_line(error).rstrip(".")
    return None


def prox24_reference(weight: Float[Tensor, "..."], strength: float) -> Float[Tensor, "..."]:
    """`prox24` in plain torch: all groups at once, on the device of `weight`, in float64, returned as float64.

    Every candidate is computed for every group, without the tests and shortcuts of the kernels. Much
    slower on CPU; about 40 float64 temporaries of a quarter of the size of `weight`.
    """
    z = groups_of_four(weight.detach()).double()
    strength = _check_strength(strength)
    size, order = z.abs().sort(dim=-1, descending=True, stable=True)
    kept = torch.empty_like(size).scatter_(-1, order, _prox_sorted(size, strength))
    return positive_zeros(torch.where(z < 0, -kept, kept)).reshape(weight.shape)


def _prox_sorted(size: Float[Tensor, "... 4"], strength: float) -> Float[Tensor, "... 4"]:
    y = strength * size
    zero = torch.zeros_like(y[..., 0])
    best = torch.stack([y[..., 0], y[..., 1], zero, zero], dim=-1)
    gain = zero
    for candidate in (_three_nonzeros(y), _four_nonzeros(y)):
        v1, v2, v3, v4 = candidate.unbind(-1)
        b, m = v3 + v4, v3 * v4
        # Objective minus that of two non-zeros, as it reads at a stationary point; NaN, for no candidate, is not less.
        here = b * b * (v1 * v1 + v2 * v2 - 1) / 2 + m * ((v1 + v2) * (b - 1) + m + 1)
        better = here < gain
        gain = torch.where(better, here, gain)
        best = torch.where(better[..., None], candidate, best)
    # Far below 1, y loses digits against it, or underflows; there the problem is convex and any start will do.
    faint = y[..., :1] < prox_math.NEARLY_LINEAR
    settled = _settle(torch.where(faint, size, best / max(strength, prox_math.TINY)), size, strength)
    two = torch.cat([size[..., :2], torch.zeros_like(size[..., 2:])], dim=-1)
    return torch.where(~faint & (best[..., 2:3] == 0), two, settled)


def _three_nonzeros(y: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Monotone Newton on `k(c) = c + v1·v2 − y3`, see `prox_math`; NaN where there is no root."""
    y1, y2, y3, _ = y.unbind(-1)
    bound = y2 / y1
    bend = ((y1 - y2) / (y1 + y2)).sqrt()
    c = torch.minimum((1 - bend) / (1 + bend), torch.minimum(y3, bound)).clamp(max=prox_math.ROOT_HALF)
    for _ in range(MAX_STEPS):
        v1, v2 = (y1 - c * y2) / (1 - c * c), (y2 - c * y1) / (1 - c * c)
        slope = 1 - (v1 * v1 + v2 * v2 - 2 * c * v1 * v2) / (1 - c * c)
        step = (c + v1 * v2 - y3) / slope
        c = torch.where((slope > 0) & (c - step >= 0) & (c - step <= bound), c - step, math.nan)
        if not (step.abs() > prox_math.STEP * c).any():
            break
    v1, v2 = (y1 - c * y2) / (1 - c * c), (y2 - c * y1) / (1 - c * c)
    return torch.stack([v1, v2, c, torch.zeros_like(c)], dim=-1)


def _four_nonzeros(y: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Monotone Newton from `v4 = y4` down to the larger root of `g`, see `prox_math`; NaN where there is none."""
    y1, y2, y3, y4 = y.unbind(-1)
    kappa = 2 * (y1 + y2 + y3 - y4) - 1
    along_rho = kappa >= 0
    reach = 1 + 2 * y4
    t = (reach + kappa / reach) / 2
    x = torch.where(along_rho, reach - t, t)
    gap = 4 * (y - y4[..., None])[..., :3]
    step = torch.full_like(x, math.inf)
    for _ in range(MAX_STEPS):
        other = (x * x + kappa.abs()).sqrt()
        t, rho = torch.where(along_rho, other, x), torch.where(along_rho, x, other)
        root = ((rho * rho + prox_math.TINY)[..., None] + gap).sqrt()
        if not (step.abs() > prox_math.STEP).any():
            break
        slope = (2 + t / rho + t * (1 / root).sum(dim=-1)) * torch.where(along_rho, rho / t, 1.0)
        step = (2 * t + rho + root.sum(dim=-1) - 4) / slope
        x = torch.where((slope > 0) & (t + rho > 1), x - step, math.nan)
    v = (t[..., None] - 1 + torch.cat([root, rho[..., None]], dim=-1)) / 2
    return torch.where(v[..., 3:] > 0, v, math.nan)


def _settle(w: Float[Tensor, "... 4"], z: Float[Tensor, "... 4"], strength: float) -> Float[Tensor, "... 4"]:
    """Minimise over each entry in turn until nothing moves: restores digits, and never raises the objective."""
    w1, w2, w3, w4 = w.unbind(-1)
    z1, z2, z3, z4 = z.unbind(-1)
    for _ in range(MAX_PASSES):
        before = w
        w1 = (z1 - (strength * w2 * (w3 + w4) + strength * w3 * w4)).clamp(min=0)
        w2 = (z2 - (strength * w1 * (w3 + w4) + strength * w3 * w4)).clamp(min=0)
        w3 = (z3 - (strength * w4 * (w1 + w2) + strength * w1 * w2)).clamp(min=0)
        w4 = (z4 - (strength * w3 * (w1 + w2) + strength * w1 * w2)).clamp(min=0)
        w = torch.stack([w1, w2, w3, w4], dim=-1)
        if not ((w - before).abs() > torch.finfo(w.dtype).eps * z).any():
            break
    return w.minimum(z).cummin(dim=-1).values


def _round_once(exact: Float[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Round to `dtype` once; by way of float32 torch would round float64 to float16 and bfloat16 twice.

    Float32 rounded to odd (towards zero, last bit set if anything was lost) cannot land on a tie of the narrower dtype.
    """
    if dtype in KERNEL_DTYPES:
        return exact.to(dtype)
    near = exact.float()
    inexact = near.double() != exact
    truncated = torch.where(near.double().abs() > exact.abs(), near.nextafter(torch.zeros_like(near)), near)
    odd = (truncated.view(torch.int32) | 1).view(torch.float32)
    return torch.where(inexact, odd, near).to(dtype)


def _check_strength(strength: float) -> float:
    strength = float(strength)
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"strength must be finite and not negative. Got {strength}. Pass 0 for no regularisation.")
    return strength


def _check_alike(**tensors: Tensor) -> None:
    """Refuses tensors that the kernels would misread."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        groups_of_four(tensor)
        kind = (tuple(tensor.shape), tensor.dtype, tensor.device)
        if kind != (tuple(first.shape), first.dtype, first.device) or tensor.dtype not in KERNEL_DTYPES:
            raise ValueError(
                f"{name} must be float32 or float64 and have the shape, dtype and device of {next(iter(tensors))}, "
                f"{tuple(first.shape)} {first.dtype} on {first.device}. "
                f"Got {kind[0]} {kind[1]} on {kind[2]}. Convert it before the loop."
            )
        if not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous. Got strides {tensor.stride()} for shape {tuple(tensor.shape)}. "
                "Call .contiguous() before the loop."
            )


def _view_rows(tensor: Tensor) -> "NDArray[np.floating[Any]]":
    return tensor.detach().view(-1, GROUP).numpy()
