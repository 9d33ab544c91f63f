"""Rounding of 2:4 weights to the INT8 grid: what each way adds to the held-out error of P(768).

    python benchmarks/rounding.py [--write] [--seeds 4] [--size 768]

One scale a row, one thread, seconds of the processor. What a way adds is its held-out error less that of the 2:4 weight
in float32, which is the same for all. Where activations are quantised, both are measured with them: one scale,
the largest magnitude of the calibration tokens over 127, or over fewer levels, which is what outliers leave of 127.
Exits 1 if what ours adds is more than half of what rounding to nearest adds, in the mean of the seeds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from checks import Check
from checks import table as table_of_checks
from power_law import HELD_OUT, TOKENS, power_law
from results_files import write_results
from solver import threads
from torch import Tensor

from prox24_export.solver import solve_layer
from prox24_export.solver.quadratic import Quadratic, automatic_damping, loss
from prox24_export.solver.rounding import LEVELS, Grid, round_to_grid, round_to_nearest

SWEEPS = 50  # most of cyclic descent, which ends by itself far earlier
LIMIT = 0.5  # of what rounding to nearest adds
ADDED = "added to the held-out error / rounding to nearest's"
ACTIVATIONS = {"float32": None, "INT8": 127, "31 levels": 31, "7 levels": 7}
FLOAT, NEAREST, OURS = "2:4, float32", "nearest", "ours"


@dataclass(frozen=True)
class Problem:
    """A 2:4 weight with the moments of the activations that it reads.

    Attributes:
        dense: The weight that it comes from, float32 [N, K].
        sparse: 2:4 weight, float32 [N, K].
        gram: `XᵀX` of the calibration tokens, as they are; float64 like the others.
        quantised_gram: `X_qᵀX_q` of the same tokens, quantised.
        cross: `XᵀX_q`.
        tokens: Calibration tokens [tokens, K].
        held: Held-out tokens [tokens, K].
        quantised_held: The same, quantised.
    """

    dense: Tensor
    sparse: Tensor
    gram: Tensor
    quantised_gram: Tensor
    cross: Tensor
    tokens: Tensor
    held: Tensor
    quantised_held: Tensor

    @classmethod
    def of(cls, size: int, seed: int) -> "Problem":
        """P(size) of a seed, pruned with the default settings."""
        layer = power_law(size, seed)
        sparse = solve_layer(layer.weight, layer.gram, tokens=layer.tokens).weight
        tokens, held = layer.activations.double(), layer.held_activations.double()
        return cls(layer.weight, sparse, layer.gram, layer.gram, layer.gram, tokens, held, held)

    def quantise(self, levels: int) -> "Problem":
        """The same problem with its activations on a grid of `levels` to either side of zero."""
        step = float(self.tokens.abs().max()) / levels
        quantised, held = ((values / step).round().clamp(-levels, levels) * step for values in (self.tokens, self.held))
        moments = {"quantised_gram": quantised.T @ quantised, "cross": self.tokens.T @ quantised}
        return replace(self, **moments, quantised_held=held)

    def held_error(self, weight: Tensor) -> float:
        """`‖X_q V̂ᵀ − X Wᵀ‖² / ‖X Wᵀ‖²` on the held-out tokens."""
        wanted = self.held @ self.dense.double().T
        return float((self.quantised_held @ weight.double().T - wanted).square().sum() / wanted.square().sum())

    @property
    def damping(self) -> float:
        """That of the solver."""
        return automatic_damping(TOKENS, self.dense.shape[1])


Way = Callable[[Problem], Tensor]  # → the weight that a runtime computes with


def nearest(problem: Problem) -> Tensor:
    """Rounding to nearest."""
    integers, scales = round_to_nearest(problem.sparse)
    return integers * scales.double()[:, None]


def ours(problem: Problem) -> Tensor:
    """What ships, on the activations as they are."""
    return round_to_grid(problem.sparse, problem.gram, tokens=TOKENS).weight


def ours_for_dense(problem: Problem) -> Tensor:
    """The same, refined once more for the dense output before it is rounded."""
    return round_to_grid(problem.sparse, problem.gram, target=problem.dense, tokens=TOKENS).weight


def ours_across(problem: Problem, blend: float = 1.0) -> Tensor:
    """The same on the quantised activations, aimed at the dense output on those that are not."""
    moments = {"target": problem.dense, "cross": problem.cross, "tokens": TOKENS, "blend": blend}
    return round_to_grid(problem.sparse, problem.quantised_gram, **moments).weight


def ours_on_quantised(problem: Problem) -> Tensor:
    """The same with the Gram matrix of the quantised activations, and no cross moment."""
    return round_to_grid(problem.sparse, problem.quantised_gram, tokens=TOKENS).weight


def _grid(problem: Problem) -> tuple[Grid, Tensor, Tensor, Tensor]:
    """Grid, goal, and the integers and scales of rounding to nearest, in float64."""
    integers, scales = round_to_nearest(problem.sparse)
    grid = Grid.of(Quadratic.of(problem.gram, None, problem.damping), torch.float64)
    return grid, problem.sparse.double(), integers.double(), scales


def splitting(problem: Problem) -> Tensor:
    """The splitting alone."""
    grid, goal, _, scales = _grid(problem)
    return grid.split(goal, scales) * scales[:, None]


def splitting_and_descent(problem: Problem) -> Tensor:
    """Ours without the search of scales."""
    grid, goal, _, scales = _grid(problem)
    return grid.descend(grid.split(goal, scales), scales, goal)[0] * scales[:, None]


def descent(problem: Problem) -> Tensor:
    """Descent by the largest gain, from rounding to nearest."""
    grid, goal, integers, scales = _grid(problem)
    return grid.descend(integers, scales, goal)[0] * scales[:, None]


def cyclic_descent(problem: Problem) -> Tensor:
    """Descent entry by entry, each to its best level, from rounding to nearest."""
    grid, goal, integers, scales = _grid(problem)
    moved = integers.numpy().copy()
    _sweep(moved, scales.double().numpy(), goal.numpy(), grid.gram.numpy())
    return torch.from_numpy(moved) * scales[:, None]


def order_and_compensate(problem: Problem) -> Tensor:
    """GPTQ (Frantar et al. 2022) on each row's own support, exactly; entries of large variance first."""
    grid, goal, _, scales = _grid(problem)
    return torch.from_numpy(_compensate(goal.numpy(), grid.gram.numpy(), scales.double().numpy())) * scales[:, None]


def order_compensate_and_descend(problem: Problem) -> Tensor:
    """The same, followed by descent."""
    grid, goal, _, scales = _grid(problem)
    found = torch.from_numpy(_compensate(goal.numpy(), grid.gram.numpy(), scales.double().numpy()))
    return grid.descend(found, scales, goal)[0] * scales[:, None]


def _compensate(goal: Any, gram: Any, scales: Any) -> Any:
    integers = np.zeros_like(goal)
    order = np.argsort(-gram.diagonal(), kind="stable")
    for row, scale in enumerate(scales):
        support = order[goal[row, order] != 0]
        upper = np.linalg.cholesky(np.linalg.inv(gram[np.ix_(support, support)])).T
        work = goal[row, support].copy()
        for k, column in enumerate(support):
            level = np.clip(np.round(work[k] / scale), -LEVELS, LEVELS)
            work[k:] -= (work[k] - level * scale) / upper[k, k] * upper[k, k:]
            integers[row, column] = level
    return integers


@numba.njit(fastmath=True)
@no_type_check
def _sweep(integers: Any, scales: Any, goal: Any, gram: Any) -> None:
    for row in range(len(goal)):
        s = scales[row]
        gradient = np.zeros(len(gram))
        for k in range(len(gram)):
            gap = s * integers[row, k] - goal[row, k]
            if gap != 0:
                gradient += gap * gram[k]
        for _ in range(SWEEPS):
            moves = 0
            for k in range(len(gram)):
                if goal[row, k] == 0:
                    continue
                level = np.round(integers[row, k] - gradient[k] / (gram[k, k] * s))
                by = min(LEVELS, max(-LEVELS, level)) - integers[row, k]
                if by != 0:
                    integers[row, k] += by
                    gradient += s * by * gram[k]
                    moves += 1
            if not moves:
                break


WAYS: dict[str, Way] = {
    NEAREST: nearest,
    "order and compensate (GPTQ)": order_and_compensate,
    "order and compensate, then descent": order_compensate_and_descend,
    "cyclic descent": cyclic_descent,
    "descent by the largest gain": descent,
    "splitting with rounding": splitting,
    "splitting, then descent": splitting_and_descent,
    OURS: ours,
    "ours, refined for the dense output": ours_for_dense,
}
QUANTISED_WAYS: dict[str, Way] = {
    NEAREST: nearest,
    OURS: ours,
    "ours, Gram matrix of the quantised activations": ours_on_quantised,
    "ours, with the cross moment, blend 0.5": lambda problem: ours_across(problem, 0.5),
    "ours, with the cross moment": ours_across,
}


def measure(size: int, seed: int) -> list[dict[str, Any]]:
    """One row a way, of one seed."""
    whole = Problem.of(size, seed)
    rows = []
    for activations, levels in ACTIVATIONS.items():
        problem = whole if levels is None else whole.quantise(levels)
        ways = WAYS if levels is None else QUANTISED_WAYS
        base = problem.held_error(problem.sparse)
        known = {"seed": seed, "activations": activations}
        rows.append(known | {"way": FLOAT, "held_out": base, "added": 0.0, "left": 0.0, "seconds": 0.0})
        for name, way in ways.items():
            started = time.process_time()
            weight = way(problem)
            seconds = time.process_time() - started
            error = problem.held_error(weight)
            left = float(loss(weight, problem.sparse, problem.gram).sum())
            figures = {"held_out": error, "added": error - base, "left": left, "seconds": seconds}
            rows.append(known | {"way": name} | figures)
            print(f"seed {seed} {activations:9} {name:48} {error - base:+.3e} {seconds:7.2f} s", flush=True)
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, with the share of what rounding to nearest adds; seconds are medians."""
    summary = []
    for activations, way in dict.fromkeys((row["activations"], row["way"]) for row in rows):
        mine = [row for row in rows if (row["activations"], row["way"]) == (activations, way)]
        simple = [row for row in rows if (row["activations"], row["way"]) == (activations, NEAREST)]
        shares = [one["added"] / other["added"] for one, other in zip(mine, simple, strict=True)]
        means = {key: statistics.fmean(row[key] for row in mine) for key in ("held_out", "added", "left")}
        means["share"] = means["added"] / statistics.fmean(row["added"] for row in simple)
        means["calibration_share"] = means["left"] / statistics.fmean(row["left"] for row in simple)
        seconds = statistics.median(row["seconds"] for row in mine)
        worst = {"largest_share": max(shares), "seconds": seconds}
        summary.append({"activations": activations, "way": way} | means | worst)
    return summary


def table(summary: list[dict[str, Any]]) -> str:
    """The summary as Markdown; shares only where the rounding of weights is what ways differ in."""
    lines = []
    for activations, levels in ACTIVATIONS.items():
        has_shares = levels in {None, LEVELS}
        heads = ["weights", "held-out error", "added"]
        heads += ["of nearest's, mean", "of nearest's, largest"] if has_shares else []
        heads += ["calibration, of nearest's"] if levels is None else []
        heads.append("seconds")
        lines += [f"**Activations: {activations}**\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in (row for row in summary if row["activations"] == activations):
            cells = [row["way"], f"{row['held_out']:.6f}", f"{row['added']:+.2e}"]
            cells += [f"{row['share']:.3f}", f"{row['largest_share']:.3f}"] if has_shares else []
            cells += [f"{row['calibration_share']:.3f}"] if levels is None else []
            lines.append(f"| {' | '.join(cells)} | {row['seconds']:.2f} |")
        lines.append("")
    return "\n".join(lines)


def check(summary: list[dict[str, Any]], size: int) -> list[Check]:
    """The promised figures."""
    shares = {(row["activations"], row["way"]): row["share"] for row in summary}
    name = f"P({size}), INT8"
    return [
        Check(name, f"{ADDED}, activations in {activations}", shares[activations, OURS], "≤", LIMIT)
        for activations in ("float32", "INT8")
    ]


def rounding_checks() -> Iterator[Check]:
    """The promised figures on one seed of P(768), for the acceptance run."""
    whole = Problem.of(768, 0)
    for activations in ("float32", "INT8"):
        levels = ACTIVATIONS[activations]
        problem = whole if levels is None else whole.quantise(levels)
        base = problem.held_error(problem.sparse)
        added = [problem.held_error(way(problem)) - base for way in (ours, nearest)]
        yield Check("P(768), INT8", f"{ADDED}, activations in {activations}", added[0] / added[1], "≤", LIMIT)


def main() -> int:
    """Measures and prints; writes with `--write`; 1 if a figure misses its limit."""
    parser = argparse.ArgumentParser(description="Ways to round 2:4 weights to INT8, side by side.")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/rounding.{json,md}")
    parser.add_argument("--seeds", type=int, default=4, help="how many problems")
    parser.add_argument("--size", type=int, default=768, help="rows and columns of the weight")
    arguments = parser.parse_args()
    threads(1)
    measure(64, 0)  # compiles, and pays for first calls
    rows = [row for seed in range(arguments.seeds) for row in measure(arguments.size, seed)]
    summary = summarise(rows)
    checks = check(summary, arguments.size)
    text = f"{table(summary)}\n{table_of_checks(checks)}"
    print(text)
    if arguments.write:
        facts = {"size": arguments.size, "tokens": TOKENS, "held_out_tokens": HELD_OUT, "summary": summary}
        sentence = f"P({arguments.size}), {arguments.seeds} seeds; seconds of one thread.\n\n"
        write_results("rounding", rows, sentence + text, facts=facts)
    return int(not all(one.passed for one in checks))


if __name__ == "__main__":
    sys.exit(main())
