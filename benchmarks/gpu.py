"""On a CUDA GPU: the solver's kernels and iterations, a whole layer, and the engines (`gpu_engines.py`).

    python -m benchmarks.gpu [--write] [--quick] [--only solver|engines]

Exits 2 where there is no CUDA GPU. CUDA events, medians of interleaved repeats after a warm-up.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prox24_export.solver import SolverSettings, prox24, solve_layer
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.products import Products, multiply
from prox24_export.solver.prox import prox24_reference, splitting_step
from prox24_export.solver.quadratic import Quadratic

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `python -m benchmarks.gpu`, too

import gpu_engines
from models import write
from problems import power_law

REPEATS = 20
PRODUCTS: tuple[Products, ...] = ("float32", "bf16x3", "tf32")


def milliseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median of each call, taken in turns."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(REPEATS + 3):
        for name, call in calls.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            stop.record()
            torch.cuda.synchronize()
            if repeat >= 3:
                seen[name].append(start.elapsed_time(stop))
    return {name: statistics.median(values) for name, values in seen.items()}


def agreement() -> list[dict[str, Any]]:
    """Largest difference between the kernel and the reference, both on the GPU."""
    z = torch.randn(1 << 20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cuda()
    rows = []
    for strength in (1e-3, 0.1, 0.3, 1.0, 1e3):
        apart = float((prox24(z, strength) - prox24_reference(z, strength)).abs().max())
        rows.append({"figure": f"prox24 at strength {strength:g}: largest difference to the reference", "value": apart})
    return rows


def iteration(size: int) -> list[dict[str, Any]]:
    """One ADMM iteration of a `size` × `size` layer as a share of the product it needs, by precision."""
    weight = torch.randn(size, size, device="cuda")
    x = torch.randn(2 * size, size, device="cuda") * torch.logspace(0, -2, size, device="cuda")
    quadratic = Quadratic.of((x.T @ x).double(), None, 0.01)
    target = (weight * quadratic.scale).float()
    target /= target.abs().mean(1, keepdim=True)
    rows = []
    for products in PRODUCTS:
        solver = ProximalAdmm(products=products, penalty_every=10**6)
        state = solver.init(quadratic, target)
        gap, resolvent, out = target.clone(), torch.randn(size, size, device="cuda"), torch.empty_like(target)
        settled = [tensor.clone() for tensor in (out, gap, target, target)]

        def product(
            gap: Tensor = gap, resolvent: Tensor = resolvent, out: Tensor = out, products: Products = products
        ) -> object:
            return multiply(gap, resolvent, products, out=out)

        def step(solver: ProximalAdmm = solver, state: Any = state) -> object:
            return solver.step(quadratic, state)

        def kernel(settled: list[Tensor] = settled) -> object:
            product, gap, sparse, target = settled
            return splitting_step(product, gap, sparse, target, 0.1, 1.0)

        took = milliseconds({"product": product, "iteration": step, "kernel": kernel})
        for name, value in took.items():
            rows.append({"figure": f"{size}², {products}: {name}, ms", "value": value})
        share = 100 * took["product"] / took["iteration"]
        rows.append({"figure": f"{size}², {products}: share of the product's ceiling, %", "value": share})
    return rows


def layer(size: int) -> list[dict[str, Any]]:
    """A whole solve, wall time, with the error on held-out data by precision."""
    problem = power_law(size)
    weight, gram = problem.weight.cuda(), problem.gram.cuda()
    rows = []
    for products in PRODUCTS:
        settings = SolverSettings(products=products)
        for _ in range(2):  # the first compiles
            solution = solve_layer(weight, gram, tokens=problem.tokens, settings=settings)
        error = problem.error(solution.weight.cpu(), held=True)
        rows.append({"figure": f"{size}², {products}: whole layer, ms", "value": 1e3 * solution.seconds})
        rows.append({"figure": f"{size}², {products}: held-out error", "value": error})
    return rows


def solver() -> tuple[list[dict[str, Any]], str]:
    """Rows and their table."""
    rows = [*agreement(), *iteration(4096), *iteration(8192), *layer(2048), *layer(4096)]
    lines = ["| figure | value |", "|---|---|", *(f"| {row['figure']} | {row['value']:.4g} |" for row in rows)]
    return rows, "\n".join(lines)


def main() -> int:
    """Measures and prints; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description="Solver and engines on a CUDA GPU.")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/gpu.* and gpu_engines.*")
    parser.add_argument("--quick", action="store_true", help="engines: two batch sizes, half a second each")
    parser.add_argument("--only", choices=["solver", "engines"], help="one of the two parts")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing measured", file=sys.stderr)
        return 2
    parts = {"solver": ("gpu", solver), "engines": ("gpu_engines", lambda: gpu_engines.measured(quick=arguments.quick))}
    for part, (name, measured) in parts.items():
        if arguments.only in {None, part}:
            rows, table = measured()
            print(torch.cuda.get_device_name(), table, sep="\n")
            if arguments.write:
                write(name, rows, f"{torch.cuda.get_device_name()}\n\n{table}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
