"""Solvers side by side: error on calibration and held-out data against time, on synthetic and on real layers.

    python benchmarks/solver.py [--write] [--problems P256 P768 P2048 KWT-1 ResNet-20]

One thread. On the synthetic problems seconds include the Gram matrix; of a real model they are those of all its layers
together, without it, and errors are means over its layers. Methods take turns within a repeat; medians are quoted.
Published tools run beside them where `PEERS_HOME` and `PEERS_SCRIPTS` say where they are installed and how they are
called (see README.md here); those seconds are of their own processes, Gram matrix included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numba
import torch
from models import available
from power_law import Layer, power_law
from problems import layers_of
from published import admm_gradual, alps
from results_files import RESULTS, write_results
from torch import Tensor

from prox24_export.option_values import Effort, Method
from prox24_export.solver import SolverSettings, solve_layer
from prox24_export.solver.gradient import ProximalGradient

Solve = Callable[[Layer, Tensor], Tensor]  # layer and Gram matrix → sparse weight
PAPER = ProximalGradient(strength_growth=1.01, momentum=0.0)
SYNTHETIC = {"P256": 256, "P768": 768, "P2048": 2048}
REAL = ("KWT-1", "ResNet-20")
REPEATS = {"P256": 5, "P768": 5, "P2048": 2, "KWT-1": 3, "ResNet-20": 3}
SLOW = {"prox gradient", "prox gradient, the paper's"}  # once, and the paper's not on P2048


def ours(effort: Effort = "default", method: Method = "prox", **options: Any) -> Solve:
    """`solve_layer` with the damping that the tool chooses unless it is given."""
    settings = SolverSettings(method, effort, **options)
    return lambda layer, gram: solve_layer(layer.weight, gram, tokens=layer.tokens, settings=settings).weight


METHODS: Mapping[str, Solve] = {
    "fast": ours("fast"),
    "default": ours(),
    "thorough": ours("thorough"),
    "prox gradient": ours(method="prox-gradient"),
    "prox gradient, the paper's": ours(method="prox-gradient", mask_solver=PAPER),
    "ALPS": lambda layer, gram: alps(layer.weight, gram),
    "ADMM gradual": lambda layer, gram: admm_gradual(layer.weight, gram),
    "SparseGPT": ours(method="sparsegpt"),
    "Wanda": ours(method="wanda"),
    "magnitude": ours(method="magnitude"),
}


def threads(count: int) -> None:
    """For torch and numba alike."""
    torch.set_num_threads(count)
    numba.set_num_threads(count)


def measure(problem: str, layers: list[Layer], methods: Mapping[str, Solve], repeats: int) -> list[dict[str, Any]]:
    """One row a method: mean errors over the layers, median seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    errors: dict[str, tuple[float, float]] = {}
    warm = power_law(64)
    for solve in methods.values():
        solve(warm, warm.gram)  # compiles, and pays for first calls
    for repeat in range(repeats):
        for name, solve in methods.items():
            if repeat and name in SLOW:
                continue
            spent, calibration, held = 0.0, 0.0, 0.0
            for layer in layers:
                started = time.perf_counter()
                solution = solve(layer, layer.gram_again())
                spent += time.perf_counter() - started
                if not repeat:
                    calibration += layer.error(solution) / len(layers)
                    held += layer.error(solution, held=True) / len(layers)
            seconds[name].append(spent)
            errors.setdefault(name, (calibration, held))
    rows = []
    for name in methods:
        row = {"problem": problem, "method": name, "calibration": errors[name][0], "held_out": errors[name][1]}
        rows.append(row | {"seconds": statistics.median(seconds[name])})
        print(
            "{problem:10} {method:28} {calibration:.5f} {held_out:.5f} {seconds:8.3f} s".format(**rows[-1]), flush=True
        )
    return rows


def peers(size: int) -> list[dict[str, Any]]:
    """Published tools on P(size), each in its own environment; empty, with the reason, where there are none."""
    scripts = os.environ.get("PEERS_SCRIPTS", "")
    if not scripts or "PEERS_HOME" not in os.environ:
        print("published tools: skipped, PEERS_HOME and PEERS_SCRIPTS are not set", file=sys.stderr)
        return []
    command = [sys.executable, str(Path(scripts) / "run_all.py"), str(size), str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = []
    for line in done.stdout.splitlines():
        found = json.loads(line)
        if "error" in found:
            print(f"published tools: {found['module']}: {found['error'].strip().splitlines()[-1]}", file=sys.stderr)
            continue
        errors = {"calibration": found["rel_err_calib"], "held_out": found["rel_err_heldout"]}
        rows.append({"problem": f"P{size}", "method": found["peer"], **errors, "seconds": found["cpu_seconds"]})
    return rows


def join_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows with today's date, and those that were written before of problems and methods that did not run now."""
    file = RESULTS / "solver.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {"rows": []}
    dated = [{"date": known.get("date"), **row} for row in known["rows"]]
    today = datetime.now(UTC).date().isoformat()
    joined = {(row["problem"], row["method"]): row for row in [*dated, *({**row, "date": today} for row in rows)]}
    order = [*SYNTHETIC, *REAL]
    return sorted(joined.values(), key=lambda row: order.index(row["problem"]))


def table(rows: list[dict[str, Any]]) -> str:
    """A table a problem, as Markdown, best held-out error first; older rows with their date."""
    parts, newest = [], max(row["date"] for row in rows)
    for problem in dict.fromkeys(row["problem"] for row in rows):
        parts.append(f"**{problem}**\n\n| method | calibration | held-out | seconds |\n|---|---|---|---|")
        for row in sorted((row for row in rows if row["problem"] == problem), key=lambda row: row["held_out"]):
            name = f"**{row['method']}**" if row["method"] in {"fast", "default", "thorough"} else row["method"]
            name += "" if row["date"] == newest else f" ({row['date']})"
            parts.append(f"| {name} | {row['calibration']:.5f} | {row['held_out']:.5f} | {row['seconds']:.3f} |")
        parts.append("")
    return "\n".join(parts) + "\n"


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Held-out error against time, one panel a problem; our efforts joined by a line."""
    import matplotlib as mpl  # noqa: PLC0415 - only to draw

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "prox24"
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen
    from matplotlib import ticker  # noqa: PLC0415

    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure, panels = plt.subplots(1, len(problems), figsize=(4.2 * len(problems), 4.2), squeeze=False)
    shown = [name for name in METHODS if name not in {"fast", "default", "thorough", "magnitude", "Wanda"}]
    for panel, problem in zip(panels[0], problems, strict=True):
        at = {row["method"]: (row["seconds"], row["held_out"]) for row in rows if row["problem"] == problem}
        line = [at[effort] for effort in ("fast", "default", "thorough") if effort in at]
        panel.plot(*zip(*line, strict=True), "o-", color="#0b6e4f", linewidth=2, label="ours: fast, default, thorough")
        for index, (name, marker) in enumerate(zip(shown, "sDv^P", strict=True)):  # magnitude, Wanda: far above
            if name in at:
                panel.plot(*at[name], marker, color=f"C{index}", markersize=7, label=name)
        panel.set(xscale="log", title=problem, xlabel="seconds, one thread", ylabel="relative error, held-out")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.margins(x=0.15)
        panel.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measures and prints; writes with `--write`."""
    parser = argparse.ArgumentParser(description="Solvers side by side.")
    parser.add_argument("--write", action="store_true", help="join with benchmarks/results/solver.{json,md,svg}")
    parser.add_argument("--problems", nargs="+", default=[*SYNTHETIC, *REAL], choices=[*SYNTHETIC, *REAL])
    arguments = parser.parse_args()
    threads(1)
    rows = []
    for problem in arguments.problems:
        if problem in SYNTHETIC:
            layers = [power_law(SYNTHETIC[problem])]
            methods = {k: v for k, v in METHODS.items() if problem != "P2048" or k != "prox gradient, the paper's"}
            rows += measure(problem, layers, methods, REPEATS[problem])
            if problem == "P768":
                rows += peers(SYNTHETIC[problem])
        elif available(problem):
            with tempfile.TemporaryDirectory() as folder:
                rows += measure(problem, list(layers_of(problem, Path(folder))), METHODS, REPEATS[problem])
    if arguments.write:
        rows = join_rows(rows)
        write_results("solver", rows, table(rows) + "![held-out error against time](solver.svg)\n")
        plot(rows, RESULTS / "solver.svg")


if __name__ == "__main__":
    main()
