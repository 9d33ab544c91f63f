"""Triton kernels around the proximal operator for CUDA devices: one pass over memory, a tile of groups in step.

The mathematics, its symbols and its tests are those of `prox_math`, stated here in Triton for the lanes of a tile. A
tile in which no group is worth the Newton iteration skips it: settled iterates cost what their memory traffic costs.

Not checked here: NaN and infinity (every loop still ends), shapes, dtypes, strides.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from prox24_export.solver import prox_math
from prox24_export.solver.pattern import GROUP

TILE = 256  # groups
NEARLY_LINEAR = tl.constexpr(prox_math.NEARLY_LINEAR)
NEEDS_POLISH = tl.constexpr(prox_math.NEEDS_POLISH)
LOPSIDED = tl.constexpr(prox_math.LOPSIDED)
MAX_STEPS = tl.constexpr(prox_math.MAX_STEPS)
MAX_PASSES = tl.constexpr(prox_math.MAX_PASSES)
SUM_OF_DENSE = tl.constexpr(prox_math.SUM_OF_DENSE)
ROOT_HALF = tl.constexpr(prox_math.ROOT_HALF)
# By the type computed in: Newton's last step, what keeps roots and quotients finite at 0, and one unit of rounding.
LIMITS = {
    tl.float64: {"step_size": prox_math.STEP, "tiny": prox_math.TINY, "rounding": 2.0**-52},
    tl.float32: {"step_size": 1e-4, "tiny": 1e-30, "rounding": 2.0**-23},
}


@triton.jit
@no_type_check
def _best_three(y1, y2, y3, tried, step_size: tl.constexpr):
    """``v1``, ``v2``, ``v3`` and the gain where `tried`; the gain is 0 where there is no such candidate."""
    y1, y2 = tl.where(tried, y1, 1.0), tl.where(tried, y2, 0.5)
    y3 = tl.where(tried, y3, 0.25)
    bend = tl.sqrt((y1 - y2) / (y1 + y2))
    bound = y2 / y1
    c = tl.minimum(tl.minimum((1 - bend) / (1 + bend), ROOT_HALF), tl.minimum(y3, bound))
    alive = tried
    steps = 0
    moving = 1
    while (moving > 0) & (steps < MAX_STEPS):
        scale = 1 / (1 - c * c)
        v1, v2 = (y1 - c * y2) * scale, (y2 - c * y1) * scale
        slope = 1 - (v1 * v1 + v2 * v2 - 2 * c * v1 * v2) * scale
        step = (c + v1 * v2 - y3) / slope
        alive = alive & (slope > 0) & (c - step >= 0) & (c - step <= bound)
        step = tl.where(alive, step, 0.0)
        c -= step
        moving = tl.sum((tl.abs(step) > step_size * c).to(tl.int32))
        steps += 1
    scale = 1 / (1 - c * c)
    v1, v2 = (y1 - c * y2) * scale, (y2 - c * y1) * scale
    return v1, v2, c, tl.where(alive, c * c * (v1 * v1 + v2 * v2 - 1) * 0.5, 0.0)


@triton.jit
@no_type_check
def _best_four(y1, y2, y3, y4, tried, step_size: tl.constexpr, tiny: tl.constexpr):
    """``v1`` to ``v4`` and the gain where `tried`; the gain is 0 where there is no such candidate."""
    y1, y2 = tl.where(tried, y1, 0.5), tl.where(tried, y2, 0.5)
    y3, y4 = tl.where(tried, y3, 0.5), tl.where(tried, y4, 0.25)
    d1, d2, d3 = 4 * (y1 - y4), 4 * (y2 - y4), 4 * (y3 - y4)
    t = y1 + y2 + y3 - y4
    rho = 1 - t
    kappa = 2 * t - 1
    along_rho = kappa >= 0
    square = rho * rho + tiny
    r1, r2, r3 = tl.sqrt(square + d1), tl.sqrt(square + d2), tl.sqrt(square + d3)
    f = r1 * r2 * r3
    g = 2 * t + rho + r1 + r2 + r3 - 4
    slope = (2 * rho + t) * f + t * rho * (r1 * r2 + r3 * (r1 + r2))
    reach = 1 + 2 * y4
    middle = (reach + kappa / reach) * 0.5
    far = tl.where(along_rho, reach - middle, middle)
    newton = (g < 0) & (slope > 0)
    jump = tl.where(along_rho, rho, t) - g * tl.where(along_rho, t, rho) * f / tl.where(newton, slope, 1.0)
    x = tl.where(newton & (jump < far), jump, far)
    alive = tried & ((g < 0) | (slope < 0))
    steps = 0
    moving = 1
    while (moving > 0) & (steps < MAX_STEPS):
        other = tl.sqrt(x * x + tl.abs(kappa))
        t, rho = tl.where(along_rho, other, x), tl.where(along_rho, x, other)
        square = rho * rho + tiny
        r1, r2, r3 = tl.sqrt(square + d1), tl.sqrt(square + d2), tl.sqrt(square + d3)
        f = r1 * r2 * r3
        g = 2 * t + rho + r1 + r2 + r3 - 4
        slope = (2 * rho + t) * f + t * rho * (r1 * r2 + r3 * (r1 + r2))
        alive = alive & (slope > 0) & (t + rho > 1)
        step = tl.where(alive, g * other * f / tl.where(alive, slope, 1.0), 0.0)
        x -= step
        moving = tl.sum((tl.abs(step) > step_size).to(tl.int32))
        steps += 1
    other = tl.sqrt(x * x + tl.abs(kappa))
    t, rho = tl.where(along_rho, other, x), tl.where(along_rho, x, other)
    square = rho * rho + tiny
    v1, v2 = (t - 1 + tl.sqrt(square + d1)) * 0.5, (t - 1 + tl.sqrt(square + d2)) * 0.5
    v3, v4 = (t - 1 + tl.sqrt(square + d3)) * 0.5, (t - 1 + rho) * 0.5
    b, m = v3 + v4, v3 * v4
    gain = b * b * (v1 * v1 + v2 * v2 - 1) * 0.5 + m * ((v1 + v2) * (b - 1) + m + 1)
    return v1, v2, v3, v4, tl.where(alive & (v4 > 0), gain, 0.0)


@triton.jit
@no_type_check
def _placed(v, size, rank, w1, w2, w3, w4):
    """An entry's value: that of its rank, with its sign; no entry grows, and zeros are +0.0."""
    w = tl.where(rank == 0, w1, tl.where(rank == 1, w2, tl.where(rank == 2, w3, w4)))  # noqa: PLR2004 - ranks
    w = tl.minimum(w, size)
    return tl.where(v > 0, w, 0.0 - w)


@triton.jit
@no_type_check
def _polish(z1, z2, z3, z4, w1, w2, w3, w4, s, polish, rounding: tl.constexpr):
    """Restores, where `polish`, the digits that roots lose near 0: each entry in turn; the objective never rises."""
    passes = 0
    moving = tl.sum(polish.to(tl.int32))
    while (moving > 0) & (passes < MAX_PASSES):
        n1 = tl.maximum(z1 - (s * w2 * (w3 + w4) + s * w3 * w4), 0.0)
        n2 = tl.maximum(z2 - (s * n1 * (w3 + w4) + s * w3 * w4), 0.0)
        n3 = tl.maximum(z3 - (s * w4 * (n1 + n2) + s * n1 * n2), 0.0)
        n4 = tl.maximum(z4 - (s * n3 * (n1 + n2) + s * n1 * n2), 0.0)
        moved = polish & ((tl.abs(n3 - w3) > rounding * z3) | (tl.abs(n4 - w4) > rounding * z4))
        w1, w2 = tl.where(polish, n1, w1), tl.where(polish, n2, w2)
        w3, w4 = tl.where(polish, n3, w3), tl.where(polish, n4, w4)
        moving = tl.sum(moved.to(tl.int32))
        passes += 1
    return w1, w2, w3, w4


@triton.jit
@no_type_check
def _solve(v0, v1, v2, v3, s, step_size: tl.constexpr, tiny: tl.constexpr, rounding: tl.constexpr):
    """``prox_s`` of each lane's group, in its own order and signs."""
    a, b, c, d = tl.abs(v0), tl.abs(v1), tl.abs(v2), tl.abs(v3)
    ab, ba = tl.maximum(a, b), tl.minimum(a, b)
    cd, dc = tl.maximum(c, d), tl.minimum(c, d)
    z1, high = tl.maximum(ab, cd), tl.minimum(ab, cd)
    low, z4 = tl.maximum(ba, dc), tl.minimum(ba, dc)
    z2, z3 = tl.maximum(high, low), tl.minimum(high, low)
    y1, y2, y3, y4 = s * z1, s * z2, s * z3, s * z4

    product = y1 * y2
    h2, tail2 = y1 * y1 + y2 * y2, y3 * y3 + y4 * y4
    total = y1 + y2 + y3 + y4
    over = product - y4
    faint = (y1 < NEARLY_LINEAR) & (z3 > 0)
    worth = (y1 >= NEARLY_LINEAR) & (z3 > 0)
    four = worth & (total - 2 * y4 < SUM_OF_DENSE) & ((over < 0) | (over * over < h2 * tail2)) & (y4 > 0)
    three = worth & (h2 < 1 + 4 / 3 * y3 * y3) & ((product < y3) | (product * product < h2 * y3 * y3))

    best = y1 * 0.0
    b1, b2, b3, b4 = y1, y2, best, best
    if tl.sum(four.to(tl.int32)) > 0:
        f1, f2, f3, f4, gain = _best_four(y1, y2, y3, y4, four, step_size, tiny)
        wins = gain < 0
        best = tl.where(wins, gain, best)
        b1, b2 = tl.where(wins, f1, b1), tl.where(wins, f2, b2)
        b3, b4 = tl.where(wins, f3, b3), tl.where(wins, f4, b4)
    three = three & ((best >= 0) | (2 * (h2 + tail2) + total * total >= 1))
    if tl.sum(three.to(tl.int32)) > 0:
        f1, f2, f3, gain = _best_three(y1, y2, y3, three, step_size)
        wins = (gain < 0) & (gain <= best)
        b1, b2 = tl.where(wins, f1, b1), tl.where(wins, f2, b2)
        b3, b4 = tl.where(wins, f3, b3), tl.where(wins, 0.0, b4)

    dense = faint | (b3 > 0)
    scale = 1 / tl.maximum(s + y1 * 0.0, tiny)
    w1, w2 = tl.where(dense, b1 * scale, z1), tl.where(dense, b2 * scale, z2)
    w3, w4 = tl.where(dense, b3 * scale, 0.0), tl.where(dense, b4 * scale, 0.0)
    w1, w2 = tl.where(faint, z1, w1), tl.where(faint, z2, w2)
    w3, w4 = tl.where(faint, z3, w3), tl.where(faint, z4, w4)
    polish = dense & ((y1 < NEEDS_POLISH) | (y2 < LOPSIDED))
    w1, w2, w3, w4 = _polish(z1, z2, z3, z4, w1, w2, w3, w4, s, polish, rounding)
    w2 = tl.minimum(w2, w1)
    w3 = tl.minimum(w3, w2)
    w4 = tl.minimum(w4, w3)
    rank_a = (b > a).to(tl.int32) + (c > a).to(tl.int32) + (d > a).to(tl.int32)
    rank_b = (a >= b).to(tl.int32) + (c > b).to(tl.int32) + (d > b).to(tl.int32)
    rank_c = (a >= c).to(tl.int32) + (b >= c).to(tl.int32) + (d > c).to(tl.int32)
    rank_d = 6 - rank_a - rank_b - rank_c
    return (
        _placed(v0, a, rank_a, w1, w2, w3, w4),
        _placed(v1, b, rank_b, w1, w2, w3, w4),
        _placed(v2, c, rank_c, w1, w2, w3, w4),
        _placed(v3, d, rank_d, w1, w2, w3, w4),
    )


@triton.jit
@no_type_check
def _load(pointer, place, inside, kind: tl.constexpr):
    return (
        tl.load(pointer + place, mask=inside, other=0.0).to(kind),
        tl.load(pointer + place + 1, mask=inside, other=0.0).to(kind),
        tl.load(pointer + place + 2, mask=inside, other=0.0).to(kind),
        tl.load(pointer + place + 3, mask=inside, other=0.0).to(kind),
    )


@triton.jit
@no_type_check
def _store(pointer, place, inside, w0, w1, w2, w3):
    kind = pointer.dtype.element_ty
    tl.store(pointer + place, w0.to(kind), mask=inside)
    tl.store(pointer + place + 1, w1.to(kind), mask=inside)
    tl.store(pointer + place + 2, w2.to(kind), mask=inside)
    tl.store(pointer + place + 3, w3.to(kind), mask=inside)


@triton.jit
@no_type_check
def _count(counts, inside, w0, w1, w2, w3, z0, z1, z2, z3):
    is0, is1, is2, is3 = w0 != 0, w1 != 0, w2 != 0, w3 != 0
    kept = is0.to(tl.int32) + is1.to(tl.int32) + is2.to(tl.int32) + is3.to(tl.int32)
    changed = (is0 != (z0 != 0)) | (is1 != (z1 != 0)) | (is2 != (z2 != 0)) | (is3 != (z3 != 0))
    tl.atomic_add(counts, tl.sum((inside & (kept > 2)).to(tl.int32)))  # noqa: PLR2004 - the 2 of 2:4
    tl.atomic_add(counts + 1, tl.sum((inside & changed).to(tl.int32)))


@triton.jit
@no_type_check
def _prox_kernel(
    z, out, numbers, groups,
    step_size: tl.constexpr, tiny: tl.constexpr, rounding: tl.constexpr, kind: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside, place = group < groups, 4 * group
    v0, v1, v2, v3 = _load(z, place, inside, kind)
    w0, w1, w2, w3 = _solve(v0, v1, v2, v3, tl.load(numbers).to(kind), step_size, tiny, rounding)
    _store(out, place, inside, w0, w1, w2, w3)


@triton.jit
@no_type_check
def _splitting_kernel(
    product, gap, sparse, target, counts, numbers, groups,
    step_size: tl.constexpr, tiny: tl.constexpr, rounding: tl.constexpr, kind: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside, place = group < groups, 4 * group
    p0, p1, p2, p3 = _load(product, place, inside, kind)
    g0, g1, g2, g3 = _load(gap, place, inside, kind)
    z0, z1, z2, z3 = _load(sparse, place, inside, kind)
    v0, v1, v2, v3 = p0 + (z0 - g0), p1 + (z1 - g1), p2 + (z2 - g2), p3 + (z3 - g3)
    w0, w1, w2, w3 = _solve(v0, v1, v2, v3, tl.load(numbers).to(kind), step_size, tiny, rounding)
    _count(counts, inside, w0, w1, w2, w3, z0, z1, z2, z3)
    _store(sparse, place, inside, w0, w1, w2, w3)
    t0, t1, t2, t3 = _load(target, place, inside, kind)
    shrink = tl.load(numbers + 1).to(kind)
    g0, g1 = w0 - shrink * (v0 - w0) - t0, w1 - shrink * (v1 - w1) - t1
    g2, g3 = w2 - shrink * (v2 - w2) - t2, w3 - shrink * (v3 - w3) - t3
    _store(gap, place, inside, g0, g1, g2, g3)


@triton.jit
@no_type_check
def _gradient_kernel(
    product, gap, sparse, target, counts, numbers, groups,
    step_size: tl.constexpr, tiny: tl.constexpr, rounding: tl.constexpr, kind: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside, place = group < groups, 4 * group
    p0, p1, p2, p3 = _load(product, place, inside, kind)
    g0, g1, g2, g3 = _load(gap, place, inside, kind)
    t0, t1, t2, t3 = _load(target, place, inside, kind)
    eta, momentum = tl.load(numbers + 1).to(kind), tl.load(numbers + 2).to(kind)
    v0, v1, v2, v3 = t0 + g0 - eta * p0, t1 + g1 - eta * p1, t2 + g2 - eta * p2, t3 + g3 - eta * p3
    w0, w1, w2, w3 = _solve(v0, v1, v2, v3, tl.load(numbers).to(kind), step_size, tiny, rounding)
    z0, z1, z2, z3 = _load(sparse, place, inside, kind)
    _count(counts, inside, w0, w1, w2, w3, z0, z1, z2, z3)
    g0, g1 = w0 + momentum * (w0 - z0) - t0, w1 + momentum * (w1 - z1) - t1
    g2, g3 = w2 + momentum * (w2 - z2) - t2, w3 + momentum * (w3 - z3) - t3
    _store(gap, place, inside, g0, g1, g2, g3)
    _store(sparse, place, inside, w0, w1, w2, w3)


def prox(z: Tensor, out: Tensor, strength: float) -> None:
    """Write ``prox_s`` of every row of ``z [groups, 4]`` to ``out``; in float64 whatever the dtype."""
    _launch(_prox_kernel, (z, out), (strength,), tl.float64)


def splitting_step(
    product: Tensor, gap: Tensor, sparse: Tensor, target: Tensor, strength: float, shrink: float
) -> tuple[int, int]:
    """See `prox.splitting_step`; computed in the dtype of the tensors."""
    counts = torch.zeros(2, dtype=torch.int32, device=product.device)
    _launch(_splitting_kernel, (product, gap, sparse, target, counts), (strength, shrink), _kind(product))
    unsettled, changed = counts.tolist()
    return unsettled, changed


def gradient_step(
    product: Tensor, gap: Tensor, sparse: Tensor, target: Tensor, strength: float, eta: float, momentum: float
) -> tuple[int, int]:
    """See `prox.gradient_step`; computed in the dtype of the tensors."""
    counts = torch.zeros(2, dtype=torch.int32, device=product.device)
    _launch(_gradient_kernel, (product, gap, sparse, target, counts), (strength, eta, momentum), _kind(product))
    unsettled, changed = counts.tolist()
    return unsettled, changed


def _kind(tensor: Tensor) -> Any:
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


def _launch(kernel: Any, tensors: tuple[Tensor, ...], numbers: tuple[float, ...], kind: Any) -> None:
    """Numbers travel in a float64 tensor: as arguments of a kernel they would be rounded to float32."""
    groups = tensors[0].numel() // GROUP
    if groups:
        carried = torch.tensor(numbers, dtype=torch.float64, device=tensors[0].device)
        grid = (triton.cdiv(groups, TILE),)
        with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call] # Triton launches on the current one
            kernel[grid](*tensors, carried, groups, **LIMITS[kind], kind=kind, tile=TILE, enable_fp_fusion=True)
