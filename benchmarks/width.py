"""Wide layers: peak memory and time of a solve against the plan's model, and how time grows with the width.

    python benchmarks/width.py [--parts square,convolution,growth] [--threads 1] [--write]

`square`: a layer of 8,192 × 8,192. `convolution`: 512 channels of 2,048 × 3 × 3, whose Gram matrix has 18,432 columns.
Both aim at the dense output, with moments that are given. `growth`: the first iterations, with two inverses, by width,
for a quarter as many rows as columns.
Every case is a process of its own. Seconds are of its processor, divided by the number of threads, so that other work
on the machine counts little. With `--write`, parts that are not measured keep what stands in the results.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from checks import Check, table
from results_files import RESULTS, write_results
from solver import threads

from prox24_export.facts.machine import measure_resident_mb, return_free_memory
from prox24_export.passes.graph.activations import Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.settings import Settings
from prox24_export.solver import SolverSettings, solve_layer
from prox24_export.solver.driver import find_mask
from prox24_export.solver.layer import MASK_SOLVERS
from prox24_export.solver.quadratic import Quadratic
from prox24_export.stages.memory import MB, estimate_solver_mb
from prox24_export.stages.plan.plan import Costs
from prox24_export.stages.plan.rates import Rates

Row = dict[str, Any]
SHAPES = {"square": (8192, 8192), "convolution": (512, 2048 * 9)}  # rows, columns
WIDTHS, SHARE = (8192, 12288), 4  # of the growth; columns for every row
TOKENS = 1 << 17  # that the moments stand for
NEAR, TIMES, GROWTH = 20.0, 1.5, 1.2  # limits: per cent of memory, factor of time, growth beside flops


def make_moments(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gram and cross Gram matrix of inputs whose neighbours are alike, of uneven scale, float64, made in place."""
    generator = torch.Generator().manual_seed(columns)
    scales = torch.exp(0.5 * torch.randn(columns, generator=generator, dtype=torch.float64)) * TOKENS**0.5
    common = torch.randn(columns, generator=generator, dtype=torch.float64)
    gram, cross = (torch.empty(columns, columns, dtype=torch.float64) for _ in range(2))
    places = torch.arange(columns, dtype=torch.float64)
    for row in range(columns):
        alike = (-(places - row).abs() / 50).exp_()
        both = alike.mul(0.9).add_(common, alpha=0.3 * float(common[row])).mul_(scales * scales[row])
        gram[row] = both
        gram[row, row] += 0.1 * scales[row] ** 2
        cross[row] = both * 0.98
    return gram, cross


def make_weight(rows: int, columns: int) -> torch.Tensor:
    """A gaussian weight, float32."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) / columns**0.5


def measure_rates() -> Rates:
    """The machine's best rates of ten measurements, by its processor's clock, as the solve is measured."""
    measured = [asdict(Rates.measure(lambda: time.process_time() / torch.get_num_threads())) for _ in range(10)]
    return Rates(**{name: max(each[name] for each in measured) for name in measured[0]})


def measure_solve(rows: int, columns: int) -> Row:
    """Solves a layer; its peak beside what the process was before, and its seconds, with what the plan says of both."""
    rates = measure_rates()
    solve_layer(make_weight(1 << 17, 64), make_moments(64)[0])  # compiles
    return_free_memory()
    before = measure_resident_mb()
    gram, cross = make_moments(columns)
    weight = make_weight(rows, columns)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    wall, processor = time.perf_counter(), time.process_time()
    damping = 0.01
    settings = SolverSettings(damping=damping, blend=0.5)
    solution = solve_layer(weight, gram, cross, TOKENS, settings, quadratic=Quadratic.of(gram, cross, damping))
    return {
        "rows": rows,
        "columns": columns,
        "memory_mb": _peak_mb() - before,
        "seconds": (time.process_time() - processor) / torch.get_num_threads(),
        "wall_seconds": time.perf_counter() - wall,
        "rates": asdict(rates),
        "iterations": solution.iterations,
        "refinement_iterations": solution.refinement_iterations,
        "relative_error": solution.relative_error,
        "status": solution.status.value,
    }


def measure_growth(columns: int) -> Row:
    """Takes the iterations of the first penalty and one of the next, with the inverses of both."""
    solver = replace(MASK_SOLVERS["prox", "default"], limit=MASK_SOLVERS["prox", "default"].penalty_every + 1)
    gram, _ = make_moments(columns)
    quadratic = Quadratic.of(gram, None, 0.01)
    solve_layer(make_weight(1 << 17, 64), make_moments(64)[0])  # compiles
    started = time.process_time()
    masks = find_mask(solver, quadratic, make_weight(columns // SHARE, columns))
    seconds = (time.process_time() - started) / torch.get_num_threads()
    return {"columns": columns, "seconds_an_iteration": seconds / masks.iterations}


def _peak_mb() -> float:
    """Unlike `ru_maxrss` it begins anew where it is told to."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def run_case(name: str, columns: int, count: int) -> Row:
    """Measures a case in a process of its own."""
    command = [sys.executable, __file__, "--case", name, str(columns), "--threads", str(count)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    row: Row = json.loads(told.splitlines()[-1])
    return {"part": name, "threads": count} | row


def measure(parts: list[str], count: int) -> Iterator[Row]:
    """The cases of the parts that are asked for."""
    for part in parts:
        for columns in WIDTHS if part == "growth" else [SHAPES[part][1]]:
            yield run_case(part, columns, count)


def plan(row: Row) -> tuple[float, float]:
    """What the plan says of a solve on that machine: MB, with the dense weight, and seconds."""
    n, k = row["rows"], row["columns"]
    use = Use("layer", "x", Rows())
    linear = Linear("layer", "MatMul", "weight", "float32", Layout((n, k)), k, n, (use,))
    costs = Costs(Rates(**row["rates"]), Settings(), parts=1)
    threads(row["threads"])
    return estimate_solver_mb([k], [linear], aims=True, parts=1) + 4 * n * k / MB, costs.seconds([k], [linear], 0)


def check(rows: list[Row]) -> Iterator[Check]:
    """Every figure and its limit."""
    for row in rows:
        if row["part"] == "growth":
            continue
        name = f"{row['rows']:,} × {row['columns']:,}"
        memory, seconds = plan(row)
        away = 100 * abs(memory / row["memory_mb"] - 1)
        factor = max(seconds / row["seconds"], row["seconds"] / seconds)
        yield Check(name, "peak memory, MB", row["memory_mb"])
        yield Check(name, "planned, MB", memory)
        yield Check(name, "planned memory away from it, %", away, "≤", NEAR)
        yield Check(name, "seconds", row["seconds"])
        yield Check(name, "planned, seconds", seconds)
        yield Check(name, "planned time away from it, factor", factor, "≤", TIMES)
    grown = {row["columns"]: row["seconds_an_iteration"] for row in rows if row["part"] == "growth"}
    if set(WIDTHS) <= grown.keys():
        narrow, wide = WIDTHS
        share = grown[wide] / grown[narrow] / (wide / narrow) ** 3
        yield Check(f"{narrow:,} to {wide:,} columns", "growth of an iteration beside its flops", share, "≤", GROWTH)


def join_rows(rows: list[Row]) -> list[Row]:
    """The rows that stand in the results, with these in their place."""
    file = RESULTS / "width.json"
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    measured = {(row["part"], row["columns"]) for row in rows}
    return [*(row for row in known if (row["part"], row["columns"]) not in measured), *rows]


def main() -> int:
    """Measures the parts that are asked for; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="square,convolution,growth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", nargs=2, help="for its own use: measure one case in this process")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/width.{json,md}")
    arguments = parser.parse_args()
    threads(arguments.threads)
    if arguments.case:
        name, columns = arguments.case[0], int(arguments.case[1])
        print(json.dumps(measure_growth(columns) if name == "growth" else measure_solve(SHAPES[name][0], columns)))
        return 0
    rows: list[Row] = []
    for row in measure(arguments.parts.split(","), arguments.threads):
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
        if arguments.write:
            joined = join_rows(rows)
            checks = list(check(joined))
            write_results("width", joined, table(checks), facts={"checks": [asdict(one) for one in checks]})
    checks = list(check(rows))
    print(table(checks))
    return int(not all(one.passed for one in checks))


if __name__ == "__main__":
    sys.exit(main())
