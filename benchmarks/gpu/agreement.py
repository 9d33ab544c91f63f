"""Whether the solver's kernels compute what the reference in plain torch computes, on groups of every kind.

The minimiser jumps from one support to another where both have the same objective, so that rounding decides there. A
kernel is therefore judged by the objective too: where its entries differ from the reference's, they must be as good.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.part import Row
from prox24_export.solver.pattern import GROUP, KEPT
from prox24_export.solver.prox import gradient_step, prox24, prox24_reference, splitting_step

STRENGTHS = (0.0, 1e-3, 0.1, 0.3, 1.0, 10.0, 1e3)
SHAPES = ((1, 4), (5, 12), (255, 4), (1, 1024), (257, 4), (3, 7, 64), (512, 1024))  # around a tile of 256 groups
DTYPES = (torch.float32, torch.float64)
SHRINK, ETA, MOMENTUM = 0.8, 0.3, 0.9  # of the steps; any will do
FAINT = 1e-300  # keeps quotients of groups of zeros finite

FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda z: z,
    "ties": lambda z: (2 * z).round() / 2,
    "zeros": lambda z: z * (torch.arange(len(z)) % 3 == 0)[:, None],  # two groups of three; -0.0 among them
    "two of four": lambda z: z * torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=z.dtype),
    "tiny": lambda z: 1e-4 * z,
    "large": lambda z: 1e4 * z,
    "lopsided": lambda z: z * torch.tensor([1.0, 1e-5, 1e-5, 1e-5], dtype=z.dtype),
}


@dataclass(frozen=True)
class Tolerance:
    """What rounding in a dtype may change.

    Attributes:
        entry: Of an entry, relative to the largest magnitude that goes into its group.
        objective: By which a group's objective may exceed the reference's, relative to ½ of the square
            of the largest magnitude that goes into it.
        share: Of the groups whose entries may be further apart than `entry`, with an objective as good.
    """

    entry: float
    objective: float
    share: float


# The prox computes in float64 whatever the dtype; the steps compute in their own.
PROX = {torch.float32: Tolerance(1e-7, 1e-12, 0.0), torch.float64: Tolerance(1e-13, 1e-13, 0.0)}
STEPS = {torch.float32: Tolerance(3e-5, 1e-6, 1e-3), torch.float64: Tolerance(1e-12, 1e-13, 1e-5)}


@dataclass
class Comparison:
    """What came of comparing a kernel with the reference, over all shapes and strengths.

    Attributes:
        groups: How many were compared.
        apart: Groups whose entries differ by more than the tolerance.
        largest: Largest difference of an entry in the other groups, relative as in `Tolerance.entry`.
        worse: Largest excess of a group's objective over the reference's, relative as in `Tolerance.objective`.
        negative_zeros: Entries that are -0.0.
        miscounted: Calls whose counts are not those of the support that they returned.
    """

    groups: int = 0
    apart: int = 0
    largest: float = 0.0
    worse: float = 0.0
    negative_zeros: int = 0
    miscounted: int = 0

    def agrees(self, tolerance: Tolerance) -> bool:
        """Whether rounding explains every difference."""
        return (
            self.apart <= tolerance.share * self.groups
            and self.worse <= tolerance.objective
            and not self.negative_zeros
            and not self.miscounted
        )

    def add(  # noqa: PLR0917 - the symbols of the objective
        self, found: Tensor, expected: Tensor, v: Tensor, strength: float, entry: float, size: Tensor | None = None
    ) -> Tensor:
        """Adds one call's groups; returns which of them are within the tolerance.

        Args:
            found: What the kernel made of `v` [groups, 4].
            expected: What the reference made of it, float64.
            v: Float64.
            strength: `s ≥ 0`.
            entry: See `Tolerance.entry`.
            size: Magnitudes that went into `v`; its own where None.
        """
        self.negative_zeros += int(((found == 0) & found.signbit()).sum())
        found = found.double()
        largest = (v.abs() if size is None else size).amax(1, keepdim=True)
        apart = ((found - expected).abs() / (largest + FAINT)).amax(1)
        near = apart <= entry
        excess = objective(found, v, strength) - objective(expected, v, strength)
        self.groups += len(v)
        self.apart += int((~near).sum())
        self.largest = max(self.largest, float(apart.where(near, 0.0).max()))
        self.worse = max(self.worse, float((excess / (largest.square()[:, 0] / 2 + FAINT)).max()))
        return near


def objective(w: Tensor, v: Tensor, strength: float) -> Tensor:
    """`½‖w − v‖² + s·R(w)` of every group [groups, 4], float64."""
    a, b, c, d = w.abs().unbind(1)
    return (w - v).square().sum(1) / 2 + strength * (a * b * c + b * c * d + c * d * a + d * a * b)


def compare_prox(device: torch.device, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Row]:
    """`prox24` on a device against the reference there: a row for each dtype and kind of group."""
    rows = []
    for dtype in DTYPES:
        tolerance, seen = PROX[dtype], {family: Comparison() for family in FAMILIES}
        cases = _cases(dtype, device, shapes)
        for strength in STRENGTHS:
            flat = [z.double().reshape(-1, GROUP) for _, z in cases]
            for (family, z), v, expected in zip(cases, flat, _reference(flat, strength), strict=True):
                found = prox24(z, strength).reshape(-1, GROUP)
                seen[family].add(found, expected, v, strength, tolerance.entry)
        rows += [_row("prox24", dtype, family, found, tolerance) for family, found in seen.items()]
    return rows


def compare_steps(device: torch.device, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Row]:
    """`splitting_step` and `gradient_step` on a device against their formulas in float64 with the reference's prox."""
    rows = []
    for kernel, dtype in itertools.product(STEPPERS, DTYPES):
        tolerance, seen = STEPS[dtype], {family: Comparison() for family in FAMILIES}
        for strength in STRENGTHS:
            steps = [(family, _Step.of(z)) for family, z in _cases(dtype, device, shapes)]
            stepper = STEPPERS[kernel]
            sources = [stepper.source(step) for _, step in steps]
            for (family, step), v, expected in zip(steps, sources, _reference(sources, strength), strict=True):
                _compare_step(stepper, step, v, expected, strength, tolerance, seen[family])
        rows += [_row(kernel, dtype, family, found, tolerance) for family, found in seen.items()]
    return rows


@dataclass(frozen=True)
class _Step:
    """Arguments of a step, in its dtype and as float64 groups of before the step."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    before: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, z: Tensor) -> "_Step":
        generator = torch.Generator().manual_seed(1)
        product, target = (torch.randn(z.shape, generator=generator).to(z) * z.abs().amax() for _ in range(2))
        tensors = (product, target - z, _two_largest(z), target)
        p, g, s, t = (tensor.double().reshape(-1, GROUP).clone() for tensor in tensors)
        return cls(tensors, (p, g, s, t))


@dataclass(frozen=True)
class _Stepper:
    """A step: the kernel with its strength, what its prox is taken of, and the gap that it leaves."""

    run: Callable[[_Step, float], tuple[int, int]]
    source: Callable[[_Step], Tensor]
    gap: Callable[[_Step, Tensor, Tensor], Tensor]


def _splitting_source(step: _Step) -> Tensor:
    product, gap, sparse, _ = step.before
    return product + (sparse - gap)


def _gradient_source(step: _Step) -> Tensor:
    product, gap, _, target = step.before
    return target + gap - ETA * product


STEPPERS = {
    "splitting_step": _Stepper(
        lambda step, strength: splitting_step(*step.tensors, strength, SHRINK),
        _splitting_source,
        lambda step, v, z: z - SHRINK * (v - z) - step.before[3],
    ),
    "gradient_step": _Stepper(
        lambda step, strength: gradient_step(*step.tensors, strength, ETA, MOMENTUM),
        _gradient_source,
        lambda step, _v, z: z + MOMENTUM * (z - step.before[2]) - step.before[3],
    ),
}


def _compare_step(  # noqa: PLR0917 - a step, what it must give, and how it is judged
    stepper: _Stepper,
    step: _Step,
    v: Tensor,
    expected: Tensor,
    strength: float,
    tolerance: Tolerance,
    seen: Comparison,
) -> None:
    counts = stepper.run(step, strength)
    _, gap, sparse, _ = (tensor.reshape(-1, GROUP) for tensor in step.tensors)
    size = torch.stack([v, *step.before]).abs().amax(0)
    near = seen.add(sparse, expected, v, strength, tolerance.entry, size)
    apart = ((gap.double() - stepper.gap(step, v, expected)).abs() / (size.amax(1, keepdim=True) + FAINT)).amax(1)
    seen.apart += int((near & (apart > 4 * tolerance.entry)).sum())  # a gap is a sum of four such entries
    was, now = step.before[2] != 0, sparse != 0
    seen.miscounted += counts != (int((now.sum(1) > KEPT).sum()), int((was != now).any(1).sum()))


def _reference(sources: Sequence[Tensor], strength: float) -> tuple[Tensor, ...]:
    """The reference's minimisers; all at once, because it takes thousands of small operations however many groups."""
    solved = prox24_reference(torch.cat(list(sources)), strength)
    return torch.split(solved, [len(source) for source in sources])


def _two_largest(z: Tensor) -> Tensor:
    groups = z.reshape(-1, GROUP)
    kept = groups.abs().topk(KEPT, dim=1).indices
    return torch.zeros_like(groups).scatter_(1, kept, groups.gather(1, kept)).reshape(z.shape)


def _cases(dtype: torch.dtype, device: torch.device, shapes: Sequence[tuple[int, ...]]) -> list[tuple[str, Tensor]]:
    cases = []
    for (seed, shape), (name, family) in itertools.product(enumerate(shapes), FAMILIES.items()):
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(math.prod(shape) // GROUP, GROUP, generator=generator, dtype=torch.float64)
        cases.append((name, family(normal).to(device, dtype).reshape(shape)))
    return cases


def _row(kernel: str, dtype: torch.dtype, family: str, seen: Comparison, tolerance: Tolerance) -> Row:
    return {
        "kernel": kernel,
        "dtype": str(dtype).removeprefix("torch."),
        "groups_of": family,
        "groups": seen.groups,
        "largest_difference": seen.largest,
        "apart": seen.apart,
        "objective_excess": seen.worse,
        "negative_zeros": seen.negative_zeros,
        "miscounted_calls": seen.miscounted,
        "agrees": seen.agrees(tolerance),
    }
