"""The solver's promised figures: exactness, optimality, error, time, cost of the parts, memory."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from checks import Check
from power_law import Layer, power_law
from published import alps, alternating_prox, objective
from solver import METHODS, Solve, ours, threads
from torch import Tensor

from prox24_export.solver import LayerSolution, SolverSettings, prox24, solve_layer
from prox24_export.solver import admm as admm_module
from prox24_export.solver.driver import find_mask
from prox24_export.solver.layer import MASK_SOLVERS
from prox24_export.solver.products import Products
from prox24_export.solver.quadratic import Quadratic, loss
from prox24_export.solver.refine import ConjugateGradient, MaskedGradient

MANY_ROWS = """
import torch
from prox24_export.solver import solve_layer
from prox24_export.solver.pattern import is_two_four

def peak():  # kB; unlike ru_maxrss it starts anew with the process
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

x = torch.randn(2000, 256)
gram = (x.T @ x).double()
solve_layer(torch.randn(64, 256), gram, tokens=2000)
weight = torch.randn(100_000, 256)
before = peak()
solution = solve_layer(weight, gram, tokens=2000)
assert is_two_four(solution.weight)
print((peak() - before) * 1024 / (4 * weight.numel()))
"""


def exactness(*, quick: bool) -> Iterator[Check]:
    """`prox24` against an exhaustive search in float64, and the prior public operator beside it."""
    count = 20_000 if quick else 1_000_000
    worse = excess = alternating = 0.0
    for chunk, strength in enumerate(torch.logspace(-3, 3, 50).tolist()):
        generator = torch.Generator().manual_seed(chunk)
        z = torch.randn(count // 50, 4, generator=generator, dtype=torch.float64)
        if chunk % 2:
            z /= max(1.0, strength)  # where supports compete
        found = _searched(z, strength)
        reached = objective(prox24(z, strength), z, strength)
        relative = reached / found.clamp_min(1e-300) - 1
        worse += float((relative > 1e-6).sum()) / count
        excess = max(excess, float(relative.max()))
        prior = objective(alternating_prox(z, strength, 50), z, strength)
        alternating += float((prior > reached * (1 + 1e-6)).sum()) / count
    name = f"prox24, {count:,} groups"
    yield Check(name, "share worse than exhaustive search by 1e-6", worse, "≤", 0)
    yield Check(name, "largest relative excess over it", excess, "≤", 1e-6)
    yield Check(name, "share where alternating minimisation from z is worse, %", 100 * alternating)


def _searched(z: Tensor, strength: float) -> Tensor:
    """Lowest objective over descents from all 16 supports of `z` and 8 random points, every sign and order."""
    size = z.abs()
    starts = [torch.tensor(bits, dtype=torch.float64) * size for bits in itertools.product((0, 1), repeat=4)]
    generator = torch.Generator().manual_seed(1)
    starts += [torch.rand(size.shape, generator=generator, dtype=torch.float64) * size for _ in range(8)]
    lowest = torch.full((len(z),), torch.inf, dtype=torch.float64)
    for start in starts:
        w = start.T.contiguous()
        for _ in range(60):
            for i in range(4):
                a, b, c = (w[j] for j in range(4) if j != i)
                w[i] = (size[:, i] - strength * (a * b + c * (a + b))).clamp_min(0)
        lowest = torch.minimum(lowest, objective(w.T, size, strength))
    return lowest


def toy_optimum(*, quick: bool) -> Iterator[Check]:
    """All masks of all rows enumerated: how close each method comes to the best of them.

    Ours is `thorough` with next to no damping, as the optimum has none; the others damp as published. Each method's
    mask is judged with the best weights on it.
    """
    problems, rows = (40 if quick else 500), 4
    solvers: dict[str, Solve] = {
        "ours": ours("thorough", damping=1e-4),
        "SparseGPT": METHODS["SparseGPT"],
        "Wanda": METHODS["Wanda"],
        "ALPS": METHODS["ALPS"],
    }
    for size in (8, 12):
        masks = _masks(size)
        optimal, excess = dict.fromkeys(solvers, 0.0), dict.fromkeys(solvers, 0.0)
        for seed in range(problems):
            layer = _toy(size, rows, seed)
            best = _best_losses(layer, masks)
            for name, solve in solvers.items():
                mask = solve(layer, layer.gram) != 0
                reached = _best_losses(layer, mask[:, None], paired=True)
                optimal[name] += float((reached <= best * (1 + 1e-6)).sum()) / (problems * rows)
                excess[name] += float((reached / best - 1).sum()) / (problems * rows)
        others = {name: value for name, value in excess.items() if name != "ours"}
        name = f"toy optimum, d_in = {size}"
        for other in solvers:
            yield Check(name, f"rows with the optimal mask, %: {other}", 100 * optimal[other])
            yield Check(name, f"mean excess loss of the mask, %: {other}", 100 * excess[other])
        yield Check(name, "our excess / SparseGPT's", excess["ours"] / excess["SparseGPT"], "≤", 0.5)
        yield Check(name, "our excess / the best other's", excess["ours"] / min(others.values()), "≤", 1)


def _toy(size: int, rows: int, seed: int) -> Layer:
    """As P(size), with 64 tokens and few rows."""
    whole = power_law(size, seed)
    weight = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    tokens = whole.activations[:64].double()
    gram = tokens.T @ tokens
    return Layer(weight, gram, gram, len(tokens))


def _masks(size: int) -> Tensor:
    """Every 2:4 mask of a row [masks, size]."""
    pairs = [[i in pair for i in range(4)] for pair in itertools.combinations(range(4), 2)]
    return torch.tensor([list(itertools.chain(*choice)) for choice in itertools.product(pairs, repeat=size // 4)])


def _best_losses(layer: Layer, masks: Tensor, *, paired: bool = False) -> Tensor:
    """Least loss of each row over the masks, each with its best weights, by batched direct solves in float64."""
    masks = masks.double() if paired else masks.double().expand(len(layer.weight), *masks.shape)
    identity = torch.eye(layer.gram.shape[0], dtype=torch.float64)
    inside = layer.gram * masks[..., :, None] * masks[..., None, :] + identity * (1 - masks[..., None, :])
    weight = layer.weight.double()
    right = (weight @ layer.gram)[:, None, :] * masks
    solution = torch.linalg.solve(inside, right)
    difference = solution - weight[:, None, :]
    losses: Tensor = ((difference @ layer.gram) * difference).sum(-1)
    return losses.min(1).values


@dataclass(frozen=True)
class _Reference:
    """Figures that were known before: limits of ours, errors and seconds of ALPS, seconds of SparseGPT."""

    calibration: float
    held: float
    alps_calibration: float
    alps_held: float
    alps_seconds: float
    sparsegpt_seconds: float


REFERENCES = {
    768: _Reference(0.0223, 0.0262, 0.0224, 0.0263, 1.7, 0.18),
    2048: _Reference(1.0, 0.0250, 0.0171, 0.0253, 30, 1.6),
}


def errors_and_times(*, quick: bool) -> Iterator[Check]:
    """P(768) and P(2048) against the limits, and against ALPS and SparseGPT in the same run, on one thread."""
    threads(1)
    for size in (768,) if quick else (768, 2048):
        layer, name, known = power_law(size), f"P({size})", REFERENCES[size]
        own = ours()(layer, layer.gram)
        yield Check(name, "default: calibration error", layer.error(own), "≤", known.calibration)
        yield Check(name, "default: held-out error", layer.error(own, held=True), "≤", known.held)
        if not quick:
            yield from _against_others(name, layer, known, repeats=7 if size == 768 else 2)


def _against_others(name: str, layer: Layer, known: _Reference, repeats: int) -> Iterator[Check]:
    firm, rival = ours(damping=0.01)(layer, layer.gram), alps(layer.weight, layer.gram)
    yield Check(name, "calibration error / ALPS's, same damping", layer.error(firm) / layer.error(rival), "≤", 1)
    for part, held, figure in (("calibration", False, known.alps_calibration), ("held-out", True, known.alps_held)):
        share = layer.error(rival, held=held) / figure
        yield Check(name, f"own ALPS: {part} error / its reference", share, "≤", 1.005)
    fast, sparsegpt = METHODS["fast"](layer, layer.gram), METHODS["SparseGPT"](layer, layer.gram)
    share = layer.error(fast, held=True) / layer.error(sparsegpt, held=True)
    yield Check(name, "fast: held-out error / SparseGPT's", share, "≤", 0.82)
    methods = ("fast", "default", "SparseGPT", "ALPS")
    seconds = _interleaved({method: _timed(METHODS[method], layer) for method in methods}, repeats)
    yield Check(name, "fast: time / SparseGPT's", seconds["fast"] / seconds["SparseGPT"], "≤", 4)
    yield Check(name, "fast: seconds", seconds["fast"], "≤", 4 * known.sparsegpt_seconds)
    yield Check(name, "default: time / ALPS's", seconds["default"] / seconds["ALPS"], "≤", 0.6)
    yield Check(name, "own ALPS: seconds", seconds["ALPS"], "≤", known.alps_seconds)


def _timed(solve: Solve, layer: Layer) -> Callable[[], float]:
    """Seconds of a solve, Gram matrix included."""

    def once() -> float:
        started = time.perf_counter()
        solve(layer, layer.gram_again())
        return time.perf_counter() - started

    return once


def _interleaved(timers: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Medians; every timer once a round, after one uncounted round."""
    rounds = [{name: timer() for name, timer in timers.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(each[name] for each in rounds[1:]) for name in timers}


def cost_of_the_parts(*, quick: bool) -> Iterator[Check]:
    """On two threads, P(2048): the fused prox pass against one product, and the whole solve against its least cost."""
    if quick:
        return
    threads(2)
    layer, name = power_law(2048), "P(2048), 2 threads"
    passes: list[float] = []
    step = admm_module.splitting_step

    def timed_step(*arguments: Tensor | float) -> tuple[int, int]:
        started = time.perf_counter()
        counts = step(*arguments)  # type: ignore[arg-type] # passed on as they came
        passes.append(time.perf_counter() - started)
        return counts

    quadratic = Quadratic.of(layer.gram, None, 0.0275)
    out = torch.empty_like(layer.weight)

    def product() -> float:
        started = time.perf_counter()
        torch.mm(layer.weight, quadratic.scaled_gram, out=out)
        return time.perf_counter() - started

    def eigen() -> float:
        started = time.perf_counter()
        torch.linalg.eigh(quadratic.scaled_gram)
        return time.perf_counter() - started

    def whole() -> float:
        started = time.perf_counter()
        solutions.append(solve_layer(layer.weight, layer.gram, tokens=layer.tokens))
        return time.perf_counter() - started

    solutions: list[object] = []
    seconds = _interleaved({"product": product, "eigen": eigen, "whole": whole}, 3)
    solution = solve_layer(layer.weight, layer.gram, tokens=layer.tokens)
    admm_module.splitting_step = timed_step  # type: ignore[assignment] # the same, timed
    find_mask(MASK_SOLVERS["prox", "default"], quadratic, layer.weight)
    admm_module.splitting_step = step
    yield Check(
        name, "prox pass, mean over the iterates / one product", statistics.mean(passes) / seconds["product"], "≤", 0.3
    )
    iterations = solution.iterations + solution.refinement_iterations
    least = iterations * seconds["product"] + seconds["eigen"]
    yield Check(name, f"whole solve / ({iterations} iterations × product + eigh)", seconds["whole"] / least, "≤", 1.35)


def refinement(*, quick: bool) -> Iterator[Check]:
    """P(768): conjugate gradients to 1e-6 of the optimum against 1,000 masked-gradient steps from the same start."""
    if quick:
        return
    threads(2)
    layer, name = power_law(768), "refinement, P(768)"
    quadratic = Quadratic.of(layer.gram, None, 0.01)
    masks = find_mask(MASK_SOLVERS["prox", "default"], quadratic, layer.weight)
    gram = quadratic.gram.float()
    best = torch.stack(
        [_solved_row(row, mask, quadratic.gram) for row, mask in zip(layer.weight.double(), masks.mask, strict=True)]
    )
    least = loss(best, layer.weight, quadratic.gram)
    conjugate, gradient = ConjugateGradient(tolerance=2e-7), MaskedGradient(1000)
    solved = conjugate.solve(layer.weight, masks.mask, gram, masks.start)[0]
    stepped = gradient.solve(layer.weight, masks.mask, gram, masks.start)[0]
    excess = float(loss(solved, layer.weight, quadratic.gram).sum() / least.sum()) - 1
    other = float(loss(stepped, layer.weight, quadratic.gram).sum() / least.sum()) - 1

    def timer(refine: ConjugateGradient | MaskedGradient) -> Callable[[], float]:
        def once() -> float:
            started = time.perf_counter()
            refine.solve(layer.weight, masks.mask, gram, masks.start)
            return time.perf_counter() - started

        return once

    seconds = _interleaved({"conjugate": timer(conjugate), "gradient": timer(gradient)}, 3)
    yield Check(name, "excess over direct solves, conjugate gradients", excess, "≤", 1e-6)
    yield Check(name, "the same, 1,000 masked-gradient steps", other)
    yield Check(name, "time / 1,000 masked-gradient steps", seconds["conjugate"] / seconds["gradient"], "≤", 0.05)


def _solved_row(weight: Tensor, mask: Tensor, gram: Tensor) -> Tensor:
    solution = torch.zeros_like(weight)
    solution[mask] = torch.linalg.solve(gram[mask][:, mask], (gram @ weight)[mask])
    return solution


def edges(*, quick: bool) -> Iterator[Check]:
    """10⁵ rows: memory beside the input; products in TF32: what they change."""
    if quick:
        return
    done = subprocess.run([sys.executable, "-W", "error", "-c", MANY_ROWS], capture_output=True, text=True, check=True)
    yield Check("100,000 rows × 256", "peak memory above the weight's, in weights", float(done.stdout), "≤", 8)
    layer = power_law(768)

    def solved(products: Products) -> LayerSolution:
        return solve_layer(layer.weight, layer.gram, tokens=layer.tokens, settings=SolverSettings(products=products))

    plain = solved("float32")
    threads(1)
    alone = solved("float32")
    threads(2)
    names: tuple[Products, ...] = ("bf16x3", "tf32")
    noise = float((plain.mask != alone.mask).float().mean())
    for name in names:
        other = solved(name)
        differ = float((plain.mask != other.mask).float().mean())
        change = abs(layer.error(other.weight, held=True) / layer.error(plain.weight, held=True) - 1)
        yield Check(f"products in {name}, P(768)", "held-out error changes by, %", 100 * change, "≤", 0.1)
        limit = 10 * noise if name == "bf16x3" else 0.02
        yield Check(f"products in {name}, P(768)", "mask entries that differ, %", 100 * differ, "≤", 100 * limit)
    yield Check("float32 on 1 thread and on 2, P(768)", "mask entries that differ, %", 100 * noise, "≤", 0.5)


PARTS = (exactness, toy_optimum, errors_and_times, cost_of_the_parts, refinement, edges)


def solver_checks(*, quick: bool) -> Iterator[Check]:
    """Every promised figure of the solver."""
    before = torch.get_num_threads()
    warm = power_law(64)
    for method in METHODS.values():
        method(warm, warm.gram)
    for part in PARTS:
        yield from part(quick=quick)
        threads(before)
