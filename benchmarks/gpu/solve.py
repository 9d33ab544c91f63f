"""Whole layers solved on a CUDA GPU: time, memory, and error on held-out data, against the same layer on the CPU.

    python -m benchmarks.gpu.solve [--write [FOLDER]] [--limit SECONDS]

Needs one CUDA GPU and Triton; nothing else. Exits 2 where there is no GPU. The layers are P(d), see
`benchmarks/README.md`; the first solve of each precision, which compiles, is told apart from the following ones.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

if not __package__:  # started as a file: the root of the repository takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.meter import Meter
from benchmarks.gpu.part import Group, Measured, Part, Row, markdown_table, run_part
from benchmarks.power_law import Layer, power_law
from prox24_export.solver import LayerSolution, SolverSettings, solve_layer
from prox24_export.solver.products import Products

PRODUCTS: tuple[Products, ...] = ("bf16x3", "float32", "tf32")  # the first is what `auto` chooses on such a GPU
WIDE = 11008  # output channels of a layer of Llama-7B's shape

GPU_COLUMNS = {
    "layer": "layer",
    "products": "products",
    "first_seconds": "first solve, s",
    "seconds": "further solves, s",
    "peak_mb": "peak on the device, MB",
    "iterations": "iterations",
    "calibration_error": "calibration error",
    "held_out_error": "held-out error",
    "status": "status",
}
CPU_COLUMNS = {
    "layer": "layer",
    "products": "products on the GPU",
    "cpu_seconds": "CPU, s",
    "seconds": "GPU, s",
    "times_as_fast": "times as fast",
    "cpu_held_out_error": "held-out error on the CPU",
    "held_out_error": "on the GPU",
    "error_ratio": "GPU / CPU",
    "mask_percent": "mask entries that differ, %",
}

Solved = TypeVar("Solved")


@dataclass
class Solves:
    """Solves layers on one device and compares them with the CPU's solutions.

    Attributes:
        meter: Of the device.
        layers: Problems by size, on the CPU, made once.
        repeats: Solves that are timed, after the first.
        solved: Solutions on the device and their rows, by size and products.
    """

    meter: Meter
    layers: dict[int, Layer] = field(default_factory=dict)
    repeats: int = 3
    solved: dict[tuple[int, Products], tuple[LayerSolution, Row]] = field(default_factory=dict)

    def groups(self) -> list[Group]:
        """The GPU before the CPU; seconds are those of a machine with few cores, which make the problems."""
        return [
            Group("P(2048) on the GPU", 25, lambda: self.measure_device(2048)),
            Group("P(2048) against the CPU", 25, lambda: self.compare_with_cpu(2048)),
            Group("P(4096) on the GPU", 50, lambda: self.measure_device(4096)),
            Group(f"{WIDE} × 4096 on the GPU", 50, lambda: self.measure_device(4096, WIDE)),
            Group("P(4096) against the CPU", 70, lambda: self.compare_with_cpu(4096)),
        ]

    def measure_device(self, size: int, rows: int | None = None) -> Measured:
        """Solves P(size), or a gaussian weight of `rows` rows on its inputs, with every precision of the products."""
        layer = on_device(self._layer(size), self.meter.device)
        if rows is not None:
            generator = torch.Generator().manual_seed(1)
            weight = torch.randn(rows, size, generator=generator) / size**0.5
            layer = replace(layer, weight=weight.to(self.meter.device))
        found = []
        for products in PRODUCTS:
            solution, row = self._measure(layer, products)
            row = {"layer": f"{len(layer.weight)} × {size}", **row}
            found.append(row)
            if rows is None:
                self.solved[size, products] = replace(solution, weight=torch.empty(0), mask=solution.mask.cpu()), row
        return Measured(found, markdown_table(found, GPU_COLUMNS))

    def compare_with_cpu(self, size: int) -> Measured:
        """Solves P(size) on the CPU, in float32, and sets the device's solutions beside it.

        Raises:
            RuntimeError: The device has not solved it.
        """
        there = [(products, *self.solved[size, products]) for products in PRODUCTS if (size, products) in self.solved]
        if not there:
            raise RuntimeError(f"P({size}) was not solved on the device: there is nothing to compare")
        layer = self._layer(size)
        settings = SolverSettings(products="float32")
        solve_layer(
            layer.weight[:64, :64].contiguous(), layer.gram[:64, :64].contiguous(), settings=settings
        )  # compiles
        cpu, seconds = _timed(lambda: solve_layer(layer.weight, layer.gram, tokens=layer.tokens, settings=settings))
        error = layer.error(cpu.weight, held=True)
        found: list[Row] = [
            {
                "layer": row["layer"],
                "products": products,
                "cpu_seconds": seconds,
                "cpu_threads": torch.get_num_threads(),
                "seconds": row["seconds"],
                "times_as_fast": seconds / row["seconds"],
                "cpu_held_out_error": error,
                "held_out_error": row["held_out_error"],
                "error_ratio": row["held_out_error"] / error,
                "mask_percent": 100 * float((solution.mask != cpu.mask).double().mean()),
            }
            for products, solution, row in there
        ]
        return Measured(found, markdown_table(found, CPU_COLUMNS) + f"\n\nCPU: {torch.get_num_threads()} threads.")

    def _measure(self, layer: Layer, products: Products) -> tuple[LayerSolution, Row]:
        settings = SolverSettings(products=products)

        def solve() -> LayerSolution:
            solution = solve_layer(layer.weight, layer.gram, tokens=layer.tokens, settings=settings)
            self.meter.synchronize()
            return solution

        _, first = _timed(solve)
        timed = [_timed(solve) for _ in range(self.repeats)]
        solution = timed[-1][0]
        return solution, {
            "products": products,
            "first_seconds": first,
            "seconds": statistics.median(seconds for _, seconds in timed),
            "peak_mb": self.meter.peak_mb(solve),
            "iterations": solution.iterations,
            "calibration_error": layer.error(solution.weight),
            "held_out_error": layer.error(solution.weight, held=True),
            "status": solution.status.value,
        }

    def _layer(self, size: int) -> Layer:
        if size not in self.layers:
            self.layers[size] = replace(power_law(size), activations=torch.empty(0))
        return self.layers[size]


def on_device(layer: Layer, device: torch.device) -> Layer:
    """The same problem on a device."""
    return replace(layer, weight=layer.weight.to(device), gram=layer.gram.to(device), held=layer.held.to(device))


def _timed(run: Callable[[], Solved]) -> tuple[Solved, float]:
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


PART = Part("gpu_solve", "Whole layers solved on a CUDA GPU.", lambda meter: Solves(meter).groups())

if __name__ == "__main__":
    sys.exit(run_part(PART))
