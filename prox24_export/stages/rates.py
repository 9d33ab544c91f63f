"""What this machine computes in a second, measured in about one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from prox24_export.solver.products import multiply

TRIAL = 1024  # size of the matrices that the machine's rates are measured on
PASS = 9e-9  # seconds of one core for the prox of an entry
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Rates:
    """How much a machine computes in a second.

    Attributes:
        single: Floating-point operations of a float32 matrix product.
        double: Floating-point operations of a float64 matrix product.
        rounded: Floating-point operations of a product of the mask solver.
        cholesky: `K³` of a float64 Cholesky factorisation.
        entries: Entries of a weight whose prox is computed.
    """

    single: float
    double: float
    rounded: float
    cholesky: float
    entries: float = 1 / PASS

    @classmethod
    def measure(cls) -> "Rates":
        """Measures this machine, which takes about a second."""
        x = torch.randn(TRIAL, TRIAL, generator=torch.Generator().manual_seed(0))
        gram = x @ x.T / TRIAL + torch.eye(TRIAL)
        cube, wide = float(TRIAL) ** 3, gram.double()
        return cls(
            single=2 * cube / time_fastest(lambda: x @ x),
            double=2 * cube / time_fastest(lambda: wide @ wide),
            rounded=2 * cube / time_fastest(lambda: multiply(x, x, "auto")),
            cholesky=cube / time_fastest(lambda: torch.linalg.cholesky(wide)),
            entries=torch.get_num_threads() / PASS,
        )


def time_action(action: Callable[[], Answer]) -> tuple[float, Answer]:
    """Takes the seconds that an action takes, and what it returns."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def time_fastest(action: Callable[[], Any]) -> float:
    """Takes the seconds of the fastest of three times."""
    return min(time_action(action)[0] for _ in range(3))
