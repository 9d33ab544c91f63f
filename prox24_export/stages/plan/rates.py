"""What this machine computes in a second, measured in about one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from prox24_export.solver.products import multiply

TRIAL = 1024  # size of the matrices that the machine's rates are measured on
PASS = 8e-9  # seconds of one core for the prox of an entry
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Rates:
    """How much a machine computes in a second.

    Attributes:
        single: Floating-point operations of a float32 matrix product.
        double: Floating-point operations of a float64 matrix product.
        rounded: Floating-point operations of a product of the mask solver.
        cholesky: `K³` of a float64 Cholesky factorisation of a matrix of `TRIAL` columns.
        inverse: `K³` of a float32 inverse of such a matrix.
        entries: Entries of a weight whose prox is computed.
    """

    single: float
    double: float
    rounded: float
    cholesky: float
    inverse: float
    entries: float = 1 / PASS

    @classmethod
    def measure(cls, now: Callable[[], float] = time.perf_counter) -> "Rates":
        """Measures this machine, which takes about a second.

        Args:
            now: The clock, in seconds.
        """
        x = torch.randn(TRIAL, TRIAL, generator=torch.Generator().manual_seed(0))
        gram = x @ x.T / TRIAL + torch.eye(TRIAL)
        cube, wide = float(TRIAL) ** 3, gram.double()
        return cls(
            single=2 * cube / time_fastest(lambda: x @ x, now),
            double=2 * cube / time_fastest(lambda: wide @ wide, now),
            rounded=2 * cube / time_fastest(lambda: multiply(x, x, "auto"), now),
            cholesky=cube / time_fastest(lambda: torch.linalg.cholesky(wide), now),
            inverse=cube / time_fastest(lambda: torch.cholesky_inverse(torch.linalg.cholesky(gram)), now),
            entries=torch.get_num_threads() / PASS,
        )

    def factor_seconds(self, width: int) -> float:
        """Estimates a float64 factorisation of a matrix of this width: `K³/3` operations, most of them products."""
        return _extrapolate(TRIAL**3 / self.cholesky, 1 / 3 / self.double, width)

    def inverse_seconds(self, width: int) -> float:
        """Estimates a float32 inverse of a matrix of this width: `K³` operations, most of them products."""
        return _extrapolate(TRIAL**3 / self.inverse, 1 / self.single, width)


def _extrapolate(measured: float, ideal: float, width: int) -> float:
    """Seconds at a width, from those at `TRIAL`: products grow with its cube, what is done beside them by its square.

    Args:
        measured: Seconds at `TRIAL`.
        ideal: Seconds over `K³` if there were products alone.
        width: `K`.
    """
    beside = max(0.0, measured - ideal * TRIAL**3)
    return float(ideal * width**3 + beside * (width / TRIAL) ** 2)


def time_action(action: Callable[[], Answer], now: Callable[[], float] = time.perf_counter) -> tuple[float, Answer]:
    """Takes the seconds that an action takes by a clock, and what it returns."""
    started = now()
    result = action()
    return now() - started, result


def time_fastest(action: Callable[[], Any], now: Callable[[], float] = time.perf_counter) -> float:
    """Takes the seconds of the fastest of three times by a clock."""
    return min(time_action(action, now)[0] for _ in range(3))
