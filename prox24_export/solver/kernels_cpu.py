"""Compiled CPU kernels of the proximal operator of the 2:4 regulariser (arXiv 2501.18015), exact for every group.

For one group ``z ∈ R⁴`` and a strength ``s ≥ 0``:

    prox_s(z) = argmin_w ½‖w − z‖² + s·R(w),    R(w) = |w1w2w3| + |w2w3w4| + |w3w4w1| + |w4w1w2|

The operator keeps signs and the order of magnitudes, so the kernels work on ``z1 ≥ z2 ≥ z3 ≥ z4 ≥ 0``, and on the
scaled ``y = s·z`` and ``v = s·w``, which turn the strength into 1. Write ``e2(i)`` for the sum of the three products
of two entries of ``v`` other than ``v_i``. A non-zero entry is stationary when ``v_i = y_i − e2(i)``, so ``v ≤ y``.

One minimum per support. The Hessian is ``I + M(v)`` with ``M_ij`` the sum of the two entries other than i and j. It is
linear in v, so ``{v ≥ 0 : I + M(v) ⪰ 0}`` is convex and the objective is convex on it: all minima with four non-zeros
share one value, and likewise with three. The operator is therefore the best of three candidates, compared by their
*gain*, objective minus that of ``(y1, y2, 0, 0)``, in a form that holds at stationary points and does not cancel.

Three non-zeros. With ``c = v3``: ``v1 = (y1 − c·y2)/(1 − c²)``, ``v2 = (y2 − c·y1)/(1 − c²)``, and c is the root with
``k' > 0`` of ``k(c) = c + v1·v2 − y3``. ``k''`` changes sign once, from convex to concave, where
``(1 − c)/(1 + c) = √((y1 − y2)/(y1 + y2))``, so Newton from the nearer of that point and a bound of c is monotone.
The gain is ``½c²(v1² + v2² − 1)``.

Four non-zeros. All entries solve quadratics with the same linear term: with ``t = Σv``, ``t² = ρ² + κ``,
``κ = 2(y1 + y2 + y3 − y4) − 1`` and ``r_i = √(ρ² + 4(y_i − y4))`` they are ``v_i = (t − 1 + r_i)/2`` for i < 4 and
``v4 = (t − 1 + ρ)/2``, ρ of either sign. Other signs are saddle points, as ``1 − M_ij = (±r_i ± r_j)/2`` must be
positive and ``|ρ|`` is the smallest. ``Σv = t`` becomes one equation

    g = 2t + r1 + r2 + r3 + ρ − 4 = 0,    det(I + M) = ½·r1·r2·r3·t·dg/dρ

which is convex in ρ if κ ≥ 0 and convex and increasing in t > 0 if κ < 0 (then ρ > 0), while ``v4`` increases with
either. The minimum is the larger root; Newton from its right is monotone. ``v4 = 0`` at ``t = y1 + y2 + y3 − y4``,
``ρ = 1 − t``: if g and its slope are not negative there, no minimum has four non-zeros.

Cost: 10 to 120 ns a group on one core of 2025; no allocation. Float64 inside, rounded once on writing.
Not checked here: NaN and infinity (every loop still ends), shapes, dtypes.
"""

import math
from typing import TYPE_CHECKING, Any, no_type_check

import numba
import numpy as np

from prox24_export.solver.compile_cache import kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.floating[Any]]

# `no_type_check` keeps run-time type checkers from wrapping what numba compiles.
# Contraction (a·b + c rounded once) is the only licence given to the compiler.
_scalar = kept(numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}))
_parallel = kept(numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True))

NEARLY_LINEAR = 1e-3  # largest y below which plain substitution contracts by 6e-3 a pass
NEEDS_POLISH = 0.05  # largest y below which roots near 1 lose digits of v, and one pass of substitution restores them
LOPSIDED = 1e-3  # second largest y below which that takes many passes
STEP = 1e-8  # Newton stops after a step this short: the next would be about its square
MAX_STEPS = 60  # far more than the 10 seen; a double root, always beaten by a sparser candidate, would need more
MAX_PASSES = 200
ROUND_OFF = 1e-17
TINY = 1e-300  # keeps √ and 1/√ finite at 0
SUM_OF_DENSE = 2.5  # see `_best_sorted`
ROOT_HALF = 0.7072  # just above √½


@_scalar
@no_type_check
def three_nonzeros(y1: float, y2: float, y3: float) -> tuple[float, float, float]:
    """The stationary ``(v1, v2, v3)`` with three non-zeros that can beat two, for ``y1 ≥ y2 ≥ y3 > 0``; zeros if none.

    A negative gain needs ``v1² + v2² < 1``, so ``c = v3 ≤ v2 < √½``; and ``c ≤ y3``, ``c ≤ y2/y1`` since ``v2 ≥ 0``.
    """
    bound = y2 / y1
    bend = math.sqrt((y1 - y2) / (y1 + y2))
    c = min((1 - bend) / (1 + bend), ROOT_HALF, y3, bound)
    for _ in range(MAX_STEPS):
        scale = 1 / (1 - c * c)
        v1 = (y1 - c * y2) * scale
        v2 = (y2 - c * y1) * scale
        slope = 1 - (v1 * v1 + v2 * v2 - 2 * c * v1 * v2) * scale
        if not slope > 0:
            return 0.0, 0.0, 0.0
        step = (c + v1 * v2 - y3) / slope
        c -= step
        if not 0 <= c <= bound:
            return 0.0, 0.0, 0.0
        if abs(step) <= STEP * c:
            break
    scale = 1 / (1 - c * c)
    return (y1 - c * y2) * scale, (y2 - c * y1) * scale, c


@_scalar
@no_type_check
def _balance(t: float, rho: float, r1: float, r2: float, r3: float) -> tuple[float, float, float]:
    """``g``, ``f = r1·r2·r3`` and ``f·t·dg/dρ = f·ρ·dg/dt`` along the curve ``t² = ρ² + κ``."""
    f = r1 * r2 * r3
    return 2 * t + rho + r1 + r2 + r3 - 4, f, (2 * rho + t) * f + t * rho * (r1 * r2 + r3 * (r1 + r2))


@_scalar
@no_type_check
def _right_of_root(y4: float, d1: float, d2: float, d3: float, t0: float) -> float:
    """A point right of the larger root of g, as ρ if ``κ ≥ 0`` and as t if not; NaN if there is none with ``v4 > 0``.

    ``v4 ≤ y4`` bounds it. Where g < 0 and rising at ``v4 = 0``, a Newton step of a convex function lands right as well.
    """
    rho = 1 - t0
    square = rho * rho + TINY
    g, f, slope = _balance(t0, rho, math.sqrt(square + d1), math.sqrt(square + d2), math.sqrt(square + d3))
    if g >= 0 and slope >= 0:
        return math.nan
    kappa = 2 * t0 - 1
    u = 1 + 2 * y4  # t + ρ = 1 + 2·v4 and (t + ρ)(t − ρ) = κ
    t = (u + kappa / u) / 2
    newton = g < 0 and slope > 0
    if kappa >= 0:
        return min(u - t, rho - g * t0 * f / slope) if newton else u - t
    return min(t, t0 - g * rho * f / slope) if newton else t


@_scalar
@no_type_check
def four_nonzeros(y1: float, y2: float, y3: float, y4: float) -> tuple[float, float, float, float]:
    """The minimum ``v`` with four non-zeros, for ``y1 ≥ y2 ≥ y3 ≥ y4 > 0``; zeros if none."""
    t0 = y1 + y2 + y3 - y4
    d1, d2, d3 = 4 * (y1 - y4), 4 * (y2 - y4), 4 * (y3 - y4)
    kappa = 2 * t0 - 1
    x = _right_of_root(y4, d1, d2, d3, t0)
    t = rho = r1 = r2 = r3 = 0.0
    step = 1.0
    for _ in range(MAX_STEPS):
        other = math.sqrt(x * x + abs(kappa))
        t, rho = (other, x) if kappa >= 0 else (x, other)
        square = rho * rho + TINY
        r1, r2, r3 = math.sqrt(square + d1), math.sqrt(square + d2), math.sqrt(square + d3)
        if abs(step) <= STEP:
            break
        g, f, slope = _balance(t, rho, r1, r2, r3)
        if not (slope > 0 and t + rho > 1):
            return 0.0, 0.0, 0.0, 0.0
        step = g * other * f / slope
        x -= step
    return (t - 1 + r1) / 2, (t - 1 + r2) / 2, (t - 1 + r3) / 2, (t - 1 + rho) / 2


@_scalar
@no_type_check
def _best_sorted(y1: float, y2: float, y3: float, y4: float) -> tuple[float, float, float, float]:
    """The global minimiser ``v`` for ``y1 ≥ y2 ≥ y3 > 0`` at strength 1; of equal objectives the sparser.

    Skipping is sound. Let ``h² = y1² + y2²`` and ``Δ`` be the part of ``y − v`` in the two largest entries.

    - Four, by size: ``1 − M_ij > 0`` makes every pair sum less than 1, so ``t < 2``, and on the curve
      ``y1 + y2 + y3 − y4 = t + 2·v4·(t − 1 − v4) < 2 + 2·v4·(1 − v4) ≤ 2.5``.
    - Four, by gain: beating two needs ``|Δ|² < y3² + y4²``, so ``v1·v2 = (y1 − Δ1)(y2 − Δ2) ≥ y1·y2 − h·|Δ|``, while
      ``0 < v4 < y4 − v1·v2``.
    - Three, by gain: ``Δ = c·(v2, v1)`` and ``v1² + v2² < 1`` give ``|Δ| < c`` and, as above,
      ``c = y3 − v1·v2 ≤ y3 − y1·y2 + h·c`` with ``0 < c ≤ y3``, so ``y1·y2 < max(1, h)·y3``.
    - Three, by size: ``h² = (1 + c²)(v1² + v2²) + 4c·v1·v2 < 1 + c² + 4c(y3 − c) ≤ 1 + (4/3)·y3²``.
    - Three, after four: M is non-negative with trace 0, so its lowest eigenvalue is at most
      ``√(½‖M‖²) = √(2Σv² + (Σv)²)`` below 0. If that is less than 1 at ``v = y`` the objective is convex wherever a
      minimum can be, and one found inside is the only one.
    """
    best = 0.0
    v1, v2, v3, v4 = y1, y2, 0.0, 0.0
    h2 = y1 * y1 + y2 * y2
    tail2 = y3 * y3 + y4 * y4
    if y1 + y2 + y3 - y4 < SUM_OF_DENSE and y1 * y2 - math.sqrt(h2 * tail2) < y4:
        a1, a2, a3, a4 = four_nonzeros(y1, y2, y3, y4)
        b, m = a3 + a4, a3 * a4
        gain = b * b * (a1 * a1 + a2 * a2 - 1) / 2 + m * ((a1 + a2) * (b - 1) + m + 1)
        if a4 > 0 and gain < best:
            if 2 * (h2 + tail2) + (y1 + y2 + y3 + y4) ** 2 < 1:
                return a1, a2, a3, a4
            best, v1, v2, v3, v4 = gain, a1, a2, a3, a4
    if h2 < 1 + 4 / 3 * y3 * y3 and y1 * y2 < max(1.0, math.sqrt(h2)) * y3:
        a1, a2, a3 = three_nonzeros(y1, y2, y3)
        gain = a3 * a3 * (a1 * a1 + a2 * a2 - 1) / 2
        if gain <= best and gain < 0:
            v1, v2, v3, v4 = a1, a2, a3, 0.0
    return v1, v2, v3, v4


@_scalar
@no_type_check
def _descend(  # noqa: PLR0917 - a group and its target
    w1: float, w2: float, w3: float, w4: float, z1: float, z2: float, z3: float, z4: float, s: float
) -> tuple[float, float, float, float]:
    """Minimise over each entry in turn: ``w_i = max(z_i − s·e2(i), 0)``; never raises the objective."""
    b, m = w3 + w4, s * w3 * w4
    w1 = max(z1 - (s * w2 * b + m), 0.0)
    w2 = max(z2 - (s * w1 * b + m), 0.0)
    b, m = w1 + w2, s * w1 * w2
    w3 = max(z3 - (s * w4 * b + m), 0.0)
    w4 = max(z4 - (s * w3 * b + m), 0.0)
    return w1, w2, w3, w4


@_scalar
@no_type_check
def _prox_sorted(z1: float, z2: float, z3: float, z4: float, s: float) -> tuple[float, float, float, float]:
    """``prox_s`` for ``z1 ≥ z2 ≥ z3 ≥ z4 ≥ 0``."""
    y1, y2, y3 = s * z1, s * z2, s * z3
    w1, w2, w3, w4 = z1, z2, z3, z4
    if z3 <= 0:
        return w1, w2, w3, w4
    if y1 < NEARLY_LINEAR:
        # Strictly convex, and a pass is a contraction by 6·y1 towards the minimum; nothing here divides by s.
        error = 1.0
        while error > ROUND_OFF:
            w1, w2, w3, w4 = _descend(w1, w2, w3, w4, z1, z2, z3, z4, s)
            error *= 6 * y1
    else:
        v1, v2, v3, v4 = _best_sorted(y1, y2, y3, s * z4)
        if v3 <= 0:
            return z1, z2, 0.0, 0.0
        w1, w2, w3, w4 = v1 / s, v2 / s, v3 / s, v4 / s
        passes = MAX_PASSES if y2 < LOPSIDED else int(y1 < NEEDS_POLISH)
        for _ in range(passes):
            before3, before4 = w3, w4
            w1, w2, w3, w4 = _descend(w1, w2, w3, w4, z1, z2, z3, z4, s)
            if w3 == before3 and w4 == before4:
                break
    # Rounding must not undo what holds exactly: no entry grows, and the order is kept.
    w1 = min(w1, z1)
    w2 = min(w2, z2, w1)
    w3 = min(w3, z3, w2)
    return w1, w2, w3, min(w4, z4, w3)


@_scalar
@no_type_check
def prox_group(z0: float, z1: float, z2: float, z3: float, s: float) -> tuple[float, float, float, float]:
    """``prox_s`` of one group, in its own order and signs; equal magnitudes rank by position, zeros are +0.0."""
    a, b, c, d = abs(z0), abs(z1), abs(z2), abs(z3)
    # A bubble sort is stable; its swaps, replayed backwards on the result, restore the order.
    swap0 = b > a
    a, b = (b, a) if swap0 else (a, b)
    swap1 = c > b
    b, c = (c, b) if swap1 else (b, c)
    swap2 = d > c
    c, d = (d, c) if swap2 else (c, d)
    swap3 = b > a
    a, b = (b, a) if swap3 else (a, b)
    swap4 = c > b
    b, c = (c, b) if swap4 else (b, c)
    swap5 = b > a
    a, b = (b, a) if swap5 else (a, b)
    a, b, c, d = _prox_sorted(a, b, c, d, s)
    a, b = (b, a) if swap5 else (a, b)
    b, c = (c, b) if swap4 else (b, c)
    a, b = (b, a) if swap3 else (a, b)
    c, d = (d, c) if swap2 else (c, d)
    b, c = (c, b) if swap1 else (b, c)
    a, b = (b, a) if swap0 else (a, b)
    # 0 − 0 is +0.0, where −0 would be -0.0.
    return (
        a if z0 > 0 else 0.0 - a,
        b if z1 > 0 else 0.0 - b,
        c if z2 > 0 else 0.0 - c,
        d if z3 > 0 else 0.0 - d,
    )


@_parallel
@no_type_check
def prox(z: "Rows", out: "Rows", s: float) -> int:
    """Write ``prox_s`` of every row of ``z [groups, 4]`` to ``out``; count rows left with more than two non-zeros."""
    unsettled = 0
    for g in numba.prange(z.shape[0]):
        a, b, c, d = prox_group(np.float64(z[g, 0]), np.float64(z[g, 1]), np.float64(z[g, 2]), np.float64(z[g, 3]), s)
        out[g, 0], out[g, 1], out[g, 2], out[g, 3] = a, b, c, d
        kept = int(out[g, 0] != 0) + int(out[g, 1] != 0) + int(out[g, 2] != 0) + int(out[g, 3] != 0)
        unsettled += int(kept > 2)  # noqa: PLR2004 - the 2 of 2:4
    return unsettled


@_parallel
@no_type_check
def dual_step(x: "Rows", u: "Rows", z: "Rows", s: float) -> tuple[int, int]:
    """``z ← prox_s(x + u)`` and ``u ← x + u − z`` for every row ``[groups, 4]``, in one pass over memory.

    Returns the number of rows left with more than two non-zeros, and of rows whose support changed.
    """
    unsettled = 0
    changed = 0
    for g in numba.prange(z.shape[0]):
        v0, v1 = np.float64(x[g, 0]) + np.float64(u[g, 0]), np.float64(x[g, 1]) + np.float64(u[g, 1])
        v2, v3 = np.float64(x[g, 2]) + np.float64(u[g, 2]), np.float64(x[g, 3]) + np.float64(u[g, 3])
        was0, was1, was2, was3 = z[g, 0] != 0, z[g, 1] != 0, z[g, 2] != 0, z[g, 3] != 0
        z[g, 0], z[g, 1], z[g, 2], z[g, 3] = prox_group(v0, v1, v2, v3, s)
        # From what was stored, so that the rounding of z goes into u and not astray.
        u[g, 0], u[g, 1] = v0 - np.float64(z[g, 0]), v1 - np.float64(z[g, 1])
        u[g, 2], u[g, 3] = v2 - np.float64(z[g, 2]), v3 - np.float64(z[g, 3])
        is0, is1, is2, is3 = z[g, 0] != 0, z[g, 1] != 0, z[g, 2] != 0, z[g, 3] != 0
        unsettled += int(int(is0) + int(is1) + int(is2) + int(is3) > 2)  # noqa: PLR2004 - the 2 of 2:4
        changed += int(was0 != is0 or was1 != is1 or was2 != is2 or was3 != is3)
    return unsettled, changed
