"""The proximal operator of the 2:4 regulariser (arXiv 2501.18015) for one group of four, exact, compiled for CPU.

For one group ``z ∈ R⁴`` and a strength ``s ≥ 0``:

    prox_s(z) = argmin_w ½‖w − z‖² + s·R(w),    R(w) = |w1w2w3| + |w2w3w4| + |w3w4w1| + |w4w1w2|

The operator keeps signs and the order of magnitudes, so this works on ``z1 ≥ z2 ≥ z3 ≥ z4 ≥ 0``, and on the
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

The functions named `three_…` and `four_…` are the pieces of those two Newton iterations, without branches, so that
`kernels_cpu` can run them on many groups in step; `prox_group` runs them on one. `kernels_cuda` states them again.

Not checked here: NaN and infinity (every loop still ends), shapes, dtypes.
"""

import math
from typing import no_type_check

import numba

from prox24_export.solver.compile_cache import cache_compiled

# `no_type_check` keeps run-time type checkers from wrapping what numba compiles.
# Contraction (a·b + c rounded once) is the only licence given to the compiler.
scalar = cache_compiled(numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}))

NEARLY_LINEAR = 1e-3  # largest y below which plain substitution contracts by 6e-3 a pass
NEEDS_POLISH = 0.05  # largest y below which roots near 1 lose digits of v, and one pass of substitution restores them
LOPSIDED = 1e-3  # second largest y below which that takes many passes
STEP = 1e-8  # Newton stops after a step this short: the next would be about its square
MAX_STEPS = 60  # far more than the 10 seen; a double root, always beaten by a sparser candidate, would need more
MAX_PASSES = 200
ROUND_OFF = 1e-17
TINY = 1e-300  # keeps √ and 1/√ finite at 0
SUM_OF_DENSE = 2.5  # see `worth_trying`
ROOT_HALF = 0.7072  # just above √½


@scalar
@no_type_check
def worth_trying(y1: float, y2: float, y3: float, y4: float) -> tuple[bool, bool, bool]:
    """Whether four non-zeros, or three, can beat two; and whether four, once found to beat two, are the minimum.

    For ``y1 ≥ y2 ≥ y3 > 0`` at strength 1. Skipping is sound. Let ``h² = y1² + y2²`` and ``Δ`` be the part of
    ``y − v`` in the two largest entries.

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
    product = y1 * y2
    h2 = y1 * y1 + y2 * y2
    tail2 = y3 * y3 + y4 * y4
    total = y1 + y2 + y3 + y4
    over = product - y4
    four = (total - 2 * y4 < SUM_OF_DENSE) & ((over < 0) | (over * over < h2 * tail2))
    three = (h2 < 1 + 4 / 3 * y3 * y3) & ((product < y3) | (product * product < h2 * y3 * y3))
    return four, three, 2 * (h2 + tail2) + total * total < 1


@scalar
@no_type_check
def three_start(y1: float, y2: float, y3: float) -> tuple[float, float]:
    """First ``c`` and a bound on it. A gain needs ``v1² + v2² < 1``, so ``c = v3 ≤ v2 < √½``; and ``v2 ≥ 0``."""
    bend = math.sqrt((y1 - y2) / (y1 + y2))
    turn = (1 - bend) / (1 + bend)
    bound = y2 / y1
    return min(turn, ROOT_HALF, y3, bound), bound


@scalar
@no_type_check
def three_step(c: float, bound: float, y1: float, y2: float, y3: float) -> tuple[float, bool]:
    """Newton's step, to be subtracted, and whether there still can be a root."""
    scale = 1 / (1 - c * c)
    v1 = (y1 - c * y2) * scale
    v2 = (y2 - c * y1) * scale
    slope = 1 - (v1 * v1 + v2 * v2 - 2 * c * v1 * v2) * scale
    step = (c + v1 * v2 - y3) / slope
    return step, (slope > 0) & (c - step >= 0) & (c - step <= bound)


@scalar
@no_type_check
def three_end(c: float, y1: float, y2: float) -> tuple[float, float, float]:
    """``v1``, ``v2`` and the gain."""
    scale = 1 / (1 - c * c)
    v1 = (y1 - c * y2) * scale
    v2 = (y2 - c * y1) * scale
    return v1, v2, c * c * (v1 * v1 + v2 * v2 - 1) / 2


@scalar
@no_type_check
def _curve(x: float, kappa: float) -> tuple[float, float]:
    """``t`` and ``ρ`` on ``t² = ρ² + κ``, from the one that is the unknown: ρ if ``κ ≥ 0``, else t."""
    other = math.sqrt(x * x + abs(kappa))
    return (other, x) if kappa >= 0 else (x, other)


@scalar
@no_type_check
def _balance(t: float, rho: float, d1: float, d2: float, d3: float) -> tuple[float, float, float]:
    """``g``, ``f = r1·r2·r3`` and ``f·t·dg/dρ = f·ρ·dg/dt`` on the curve; ``d_i = 4(y_i − y4)``."""
    square = rho * rho + TINY
    r1, r2, r3 = math.sqrt(square + d1), math.sqrt(square + d2), math.sqrt(square + d3)
    f = r1 * r2 * r3
    return 2 * t + rho + r1 + r2 + r3 - 4, f, (2 * rho + t) * f + t * rho * (r1 * r2 + r3 * (r1 + r2))


@scalar
@no_type_check
def four_start(y1: float, y2: float, y3: float, y4: float) -> tuple[float, float, bool]:
    """First unknown, at or right of the larger root of g; ``κ``; and whether there can be one with ``v4 > 0``.

    ``v4 ≤ y4`` bounds it. Where g < 0 and rising at ``v4 = 0``, a Newton step of a convex function lands right as well.
    """
    t0 = y1 + y2 + y3 - y4
    rho0 = 1 - t0
    g, f, slope = _balance(t0, rho0, 4 * (y1 - y4), 4 * (y2 - y4), 4 * (y3 - y4))
    kappa = 2 * t0 - 1
    reach = 1 + 2 * y4  # t + ρ = 1 + 2·v4 and (t + ρ)(t − ρ) = κ
    t = (reach + kappa / reach) / 2
    along_rho = kappa >= 0
    far = reach - t if along_rho else t
    here = rho0 if along_rho else t0
    jump = here - g * (t0 if along_rho else rho0) * f / slope
    x = jump if (g < 0) & (slope > 0) & (jump < far) else far
    return x, kappa, (g < 0) | (slope < 0)


@scalar
@no_type_check
def four_step(x: float, kappa: float, d1: float, d2: float, d3: float) -> tuple[float, bool]:
    """Newton's step, to be subtracted, and whether there still can be a minimum with ``v4 > 0``."""
    t, rho = _curve(x, kappa)
    g, f, slope = _balance(t, rho, d1, d2, d3)
    return g * (t if kappa >= 0 else rho) * f / slope, (slope > 0) & (t + rho > 1)


@scalar
@no_type_check
def four_end(x: float, kappa: float, d1: float, d2: float, d3: float) -> tuple[float, float, float, float, float]:
    """``v1`` to ``v4`` and the gain."""
    t, rho = _curve(x, kappa)
    square = rho * rho + TINY
    v1, v2 = (t - 1 + math.sqrt(square + d1)) / 2, (t - 1 + math.sqrt(square + d2)) / 2
    v3, v4 = (t - 1 + math.sqrt(square + d3)) / 2, (t - 1 + rho) / 2
    b, m = v3 + v4, v3 * v4
    gain = b * b * (v1 * v1 + v2 * v2 - 1) / 2 + m * ((v1 + v2) * (b - 1) + m + 1)
    return v1, v2, v3, v4, gain


@scalar
@no_type_check
def three_nonzeros(y1: float, y2: float, y3: float) -> tuple[float, float, float, float]:
    """The stationary ``(v1, v2, v3)`` with three non-zeros that beats two, and its gain; zeros if none."""
    c, bound = three_start(y1, y2, y3)
    for _ in range(MAX_STEPS):
        step, alive = three_step(c, bound, y1, y2, y3)
        if not alive:
            return 0.0, 0.0, 0.0, 0.0
        c -= step
        if abs(step) <= STEP * c:
            break
    v1, v2, gain = three_end(c, y1, y2)
    return (v1, v2, c, gain) if gain < 0 else (0.0, 0.0, 0.0, 0.0)


@scalar
@no_type_check
def four_nonzeros(y1: float, y2: float, y3: float, y4: float) -> tuple[float, float, float, float, float]:
    """The minimum ``v`` with four non-zeros if it beats two, and its gain; zeros if none."""
    d1, d2, d3 = 4 * (y1 - y4), 4 * (y2 - y4), 4 * (y3 - y4)
    x, kappa, alive = four_start(y1, y2, y3, y4)
    for _ in range(MAX_STEPS):
        if not alive:
            return 0.0, 0.0, 0.0, 0.0, 0.0
        step, alive = four_step(x, kappa, d1, d2, d3)
        if alive:
            x -= step
            if abs(step) <= STEP:
                break
    if not alive:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    v1, v2, v3, v4, gain = four_end(x, kappa, d1, d2, d3)
    return (v1, v2, v3, v4, gain) if (gain < 0) & (v4 > 0) else (0.0, 0.0, 0.0, 0.0, 0.0)


@scalar
@no_type_check
def _best_sorted(y1: float, y2: float, y3: float, y4: float) -> tuple[float, float, float, float]:
    """The global minimiser ``v`` for ``y1 ≥ y2 ≥ y3 > 0`` at strength 1; of equal objectives the sparser."""
    best = 0.0
    v1, v2, v3, v4 = y1, y2, 0.0, 0.0
    four, three, only = worth_trying(y1, y2, y3, y4)
    if four:
        a1, a2, a3, a4, gain = four_nonzeros(y1, y2, y3, y4)
        if gain < 0:
            best, v1, v2, v3, v4 = gain, a1, a2, a3, a4
    if three and not (only and best < 0):
        a1, a2, a3, gain = three_nonzeros(y1, y2, y3)
        if gain <= best and gain < 0:
            v1, v2, v3, v4 = a1, a2, a3, 0.0
    return v1, v2, v3, v4


@scalar
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


@scalar
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


@scalar
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
