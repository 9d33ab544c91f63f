"""The solver's CUDA kernels: against the reference, against the bandwidth of memory, and beside the product.

    python -m benchmarks.gpu.kernels [--write [FOLDER]] [--limit SECONDS]

Needs one CUDA GPU and Triton; nothing else. Exits 2 where there is no GPU. Medians of 20 calls that take turns, by CUDA
events; a kernel's own time is what torch's profiler says. An iteration cannot be faster than the product it needs, nor
a kernel faster than a copy of as many bytes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

if not __package__:  # started as a file: the root of the repository takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.agreement import compare_prox, compare_steps
from benchmarks.gpu.meter import Call, Meter, copy_bandwidth, share_of_ceiling
from benchmarks.gpu.part import Group, Measured, Part, Row, markdown_table, run_part
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.products import Products, multiply
from prox24_export.solver.prox import gradient_step, prox24, prox24_reference, splitting_step
from prox24_export.solver.quadratic import Quadratic

PRODUCTS: tuple[Products, ...] = ("float32", "bf16x3", "tf32")
SIZES = ((4096, 4096), (11008, 4096), (8192, 8192), (2048, 2048))  # [N, K]
ADMM = ProximalAdmm(penalty_every=10**6)  # the resolvent stays the same: its cost belongs to the whole solve
LARGEST_FOR_REFERENCE = 1 << 24  # entries; plain torch takes its time, and forty temporaries
STRENGTHS = (ADMM.strength / ADMM.penalty, 1.0, 1e3)  # of the first step, of the middle, of settled iterates

AGREEMENT = {
    "kernel": "kernel",
    "dtype": "dtype",
    "groups_of": "groups of",
    "groups": "groups",
    "largest_difference": "largest difference",
    "apart": "groups apart",
    "objective_excess": "objective above the reference's",
    "negative_zeros": "-0.0",
    "miscounted_calls": "miscounted calls",
    "agrees": "agrees",
}
KERNELS = {
    "kernel": "kernel",
    "dtype": "dtype",
    "shape": "N × K",
    "strength": "strength",
    "moved_mb": "moved, MB",
    "called_ms": "as called, ms",
    "kernel_ms": "kernel, ms",
    "ceiling_percent": "of the copy's bandwidth, %",
    "called_ceiling_percent": "the same as called, %",
    "reference_ms": "plain torch, ms",
}
ITERATIONS = {
    "shape": "N × K",
    "products": "products",
    "product_ms": "product, ms",
    "product_tflops": "product, TFLOP/s",
    "step_ms": "rest as called, ms",
    "iteration_ms": "iteration, ms",
    "ceiling_percent": "product's share of the iteration, %",
}


@dataclass(frozen=True)
class Kernels:
    """Measures the kernels on one device."""

    meter: Meter

    def groups(self) -> list[Group]:
        """What matters most first; sizes in the order of `SIZES`."""
        first, *others = SIZES
        return [
            Group("Bandwidth of memory", 5, self.measure_bandwidth),
            *self._of_size(first),
            Group("prox24 against the reference", 30, lambda: _agreement(compare_prox(self.meter.device))),
            Group("Steps against the reference", 40, lambda: _agreement(compare_steps(self.meter.device))),
            *(group for shape in others for group in self._of_size(shape)),
        ]

    @cached_property
    def bandwidth(self) -> float:
        """GB a second of a copy, measured once."""
        return copy_bandwidth(self.meter)

    def measure_bandwidth(self) -> Measured:
        """The ceiling of kernels that do little but move memory."""
        return Measured([{"copy_gb_s": self.bandwidth}], f"A copy reads and writes {self.bandwidth:.0f} GB/s together.")

    def measure_kernels(self, rows: int, columns: int) -> Measured:
        """Each kernel by dtype and strength, on a weight of that shape."""
        found = []
        for dtype in (torch.float32, torch.float64):
            tensors = [self._random(rows, columns, seed).to(dtype) for seed in range(4)]
            for strength in STRENGTHS:
                found += self._kernel_rows(tensors, strength)
        return Measured(found, markdown_table(found, KERNELS))

    def measure_iteration(self, rows: int, columns: int) -> Measured:
        """One ADMM iteration, and the product that it needs, by the product's precision."""
        quadratic, target = self._layer(rows, columns)
        found = [self._iteration_row(quadratic, target, products) for products in PRODUCTS]
        return Measured(found, markdown_table(found, ITERATIONS))

    def _of_size(self, shape: tuple[int, int]) -> list[Group]:
        rows, columns = shape
        return [
            Group(f"Kernels, {rows} × {columns}", 15, lambda: self.measure_kernels(rows, columns)),
            Group(f"ADMM iteration, {rows} × {columns}", 15, lambda: self.measure_iteration(rows, columns)),
        ]

    def _kernel_rows(self, tensors: Sequence[Tensor], strength: float) -> list[Row]:
        product, gap, sparse, target = tensors
        kept = gap.clone(), sparse.clone()

        def restore() -> None:
            gap.copy_(kept[0])
            sparse.copy_(kept[1])

        calls = {
            "prox24": Call(lambda: prox24(product, strength)),
            "splitting_step": Call(lambda: splitting_step(product, gap, sparse, target, strength, 1.0), restore),
            "gradient_step": Call(lambda: gradient_step(product, gap, sparse, target, strength, 0.3, 0.9), restore),
        }
        names = {"prox24": "_prox_kernel", "splitting_step": "_splitting_kernel", "gradient_step": "_gradient_kernel"}
        passes = {"prox24": 2, "splitting_step": 6, "gradient_step": 6}  # tensors read and tensors written
        took = self.meter.medians(calls)
        plain = {"plain": Call(lambda: prox24_reference(product, strength))}
        small = product.numel() <= LARGEST_FOR_REFERENCE
        reference = self.meter.medians(plain, repeats=1)["plain"] if small else None
        rows: list[Row] = []
        for name, call in calls.items():
            moved = passes[name] * product.numel() * product.element_size()
            kernel_ms = self.meter.kernel_ms(call, names[name])
            rows.append(
                {
                    "kernel": name,
                    "dtype": str(product.dtype).removeprefix("torch."),
                    "shape": " × ".join(map(str, product.shape)),
                    "strength": strength,
                    "moved_mb": moved / 1e6,
                    "called_ms": took[name],
                    "kernel_ms": kernel_ms,
                    "ceiling_percent": share_of_ceiling(moved, kernel_ms, self.bandwidth),
                    "called_ceiling_percent": share_of_ceiling(moved, took[name], self.bandwidth),
                    "reference_ms": reference if name == "prox24" else None,
                }
            )
        restore()
        return rows

    def _iteration_row(self, quadratic: Quadratic, target: Tensor, products: Products) -> Row:
        rows, columns = target.shape
        solver = ProximalAdmm(products=products, penalty_every=ADMM.penalty_every)
        state = solver.init(quadratic, target)
        state.iteration = 1  # the first one takes no product
        resolvent = quadratic.resolvent(solver.penalty, target.dtype)
        gap, out = self._random(rows, columns, 1), torch.empty_like(target)
        start = gap * (gap.abs() > 1)

        def restore() -> None:
            state.gap.copy_(gap)
            state.sparse.copy_(start)
            state.strength = solver.strength

        took = self.meter.medians(
            {
                "product": Call(lambda: multiply(gap, resolvent, products, out=out)),
                "iteration": Call(lambda: solver.step(quadratic, state), restore),
            }
        )
        return {
            "shape": f"{rows} × {columns}",
            "products": products,
            "product_ms": took["product"],
            "product_tflops": 2 * rows * columns**2 / took["product"] / 1e9,
            "step_ms": took["iteration"] - took["product"],
            "iteration_ms": took["iteration"],
            "ceiling_percent": 100 * took["product"] / took["iteration"],
        }

    def _layer(self, rows: int, columns: int) -> tuple[Quadratic, Tensor]:
        falling = torch.logspace(0, -2, columns, device=self.meter.device)
        x = self._random(2 * columns, columns, 2) * falling
        quadratic = Quadratic.of((x.T @ x).double(), None, 0.01)
        target = self._random(rows, columns, 3) * quadratic.scale.float()
        return quadratic, target / target.abs().mean(1, keepdim=True)

    def _random(self, rows: int, columns: int, seed: int) -> Tensor:
        generator = torch.Generator(self.meter.device).manual_seed(seed)
        return torch.randn(rows, columns, generator=generator, device=self.meter.device)


def _agreement(rows: list[Row]) -> Measured:
    return Measured(rows, markdown_table(rows, AGREEMENT))


PART = Part("gpu_kernels", "The solver's kernels on a CUDA GPU.", lambda meter: Kernels(meter).groups())

if __name__ == "__main__":
    sys.exit(run_part(PART))
