from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from prox24_export.option_values import Effort
from prox24_export.solver.admm import AdmmState, ProximalAdmm
from prox24_export.solver.driver import MaskSolver, find_mask
from prox24_export.solver.gradient import ProximalGradient
from prox24_export.solver.layer import MASK_SOLVERS
from prox24_export.solver.products import Products
from prox24_export.solver.prox import prox24
from prox24_export.solver.quadratic import Quadratic
from prox24_export.solver.refine import ConjugateGradient
from tests.solver.problems import correlated, row_losses, weights

SOLVERS = pytest.mark.parametrize("solver", [ProximalAdmm(), ProximalGradient()])


def quadratic_of(tokens: int, k: int) -> Quadratic:
    x = correlated(tokens, k)
    return Quadratic.of(x.T @ x, None, 0.01)


def unit(quadratic: Quadratic, weight: torch.Tensor) -> torch.Tensor:
    scaled = (weight * quadratic.scale).float()
    return scaled / scaled.abs().mean(1, keepdim=True)


@pytest.mark.parametrize("rows", [2, 40])
def test_admm_is_the_splitting_written_out(rows: int) -> None:
    """`X`, `Z` and `U` by their formulas in float64, against the state that implies them."""
    quadratic, solver = quadratic_of(300, 32), ProximalAdmm(penalty_every=3, products="float32")
    target = unit(quadratic, weights(rows, 32))
    state = solver.init(quadratic, target)
    h = (quadratic.gram / (quadratic.scale[:, None] * quadratic.scale)).double()
    t, identity = target.double(), torch.eye(32, dtype=torch.float64)
    z, u, rho, strength = t.clone(), torch.zeros_like(t), solver.penalty, solver.strength
    for iteration in range(1, 8):
        x = (t @ h + rho * (z - u)) @ torch.linalg.inv(h + rho * identity)
        z = prox24(x + u, strength / rho)
        u = u + x - z
        strength *= solver.strength_growth
        if iteration % 3 == 0:
            rho *= solver.penalty_growth
            u /= solver.penalty_growth
        state = solver.step(quadratic, state)
        torch.testing.assert_close(state.gap.double(), z - u - t, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(state.sparse.double(), z, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("products", ["bf16", "tf32"])
def test_products_of_fewer_bits_find_masks_as_good(products: Products) -> None:
    quadratic, weight = quadratic_of(1000, 192), weights(192, 192)
    losses = []
    for each in ("float32", products):
        masks = find_mask(replace(ProximalAdmm(), products=each), quadratic, weight)
        solved, _ = ConjugateGradient(1e-6).solve(weight.double(), masks.mask, quadratic.gram, masks.start.double())
        losses.append(float(row_losses(solved, weight, quadratic.gram).sum()))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_proximal_gradient_is_its_formula(momentum: float) -> None:
    quadratic, solver = quadratic_of(300, 32), ProximalGradient(momentum=momentum, products="float32")
    target = unit(quadratic, weights(10, 32))
    state = solver.init(quadratic, target)
    h = quadratic.scaled_gram.double()
    eta = 1 / float(torch.linalg.eigvalsh(h)[-1])
    t = target.double()
    v = y = t
    for iteration in range(6):
        after = prox24(y - eta * (y - t) @ h, eta * solver.strength * solver.strength_growth**iteration)
        y, v = after + momentum * (after - v), after
        state = solver.step(quadratic, state)
        torch.testing.assert_close(state.sparse.double(), v, rtol=1e-4, atol=1e-5)


@SOLVERS
def test_no_row_sees_the_scale_of_another(solver: MaskSolver[Any]) -> None:
    quadratic, weight = quadratic_of(300, 32), weights(20, 32)
    uneven = weight * torch.logspace(-3, 3, 20)[:, None]
    masks, other = find_mask(solver, quadratic, weight), find_mask(solver, quadratic, uneven)
    assert (masks.mask == other.mask).float().mean() > 0.999
    assert masks.iterations == other.iterations


@SOLVERS
def test_the_start_it_leaves_is_near_the_best_weights_of_its_masks(solver: MaskSolver[Any]) -> None:
    quadratic, weight = quadratic_of(600, 64), weights(40, 64)
    masks = find_mask(solver, quadratic, weight)
    gram = quadratic.gram
    loss = {}
    for name, start in (("left", masks.start.double()), ("plain", (weight * masks.mask).double())):
        difference = start - weight
        loss[name] = float(((difference @ gram) * difference).sum())
    assert loss["left"] < 0.7 * loss["plain"]
    assert masks.settled


def test_rows_of_zeros_are_no_trouble() -> None:
    weight = weights(4, 16)
    weight[1] = 0
    masks = find_mask(ProximalAdmm(), quadratic_of(100, 16), weight)
    assert torch.equal(masks.start[1], torch.zeros(16))
    assert bool((masks.mask.view(-1, 4).sum(1) == 2).all())


@pytest.mark.parametrize("method", ["prox", "prox-gradient"])
def test_more_effort_means_more_iterations_and_less_loss(method: Any) -> None:
    quadratic, weight = quadratic_of(1000, 192), weights(192, 192)
    iterations, losses = [], []
    for effort in get_args(Effort):
        masks = find_mask(MASK_SOLVERS[method, effort], quadratic, weight)
        solved, _ = ConjugateGradient(1e-6).solve(weight.double(), masks.mask, quadratic.gram, masks.start.double())
        iterations.append(masks.iterations)
        losses.append(float(row_losses(solved, weight, quadratic.gram).sum()))
        assert masks.settled
    assert iterations == sorted(set(iterations))
    fast, default, thorough = losses
    assert max(default, thorough) < 0.995 * fast
    assert thorough < 1.002 * default  # on so small a problem chance decides


def test_it_stops_when_masks_settle_and_not_before() -> None:
    quadratic, weight = quadratic_of(300, 32), weights(40, 32)
    solver = replace(ProximalAdmm(), unsettled=0.0, patience=1)
    state: AdmmState = solver.init(quadratic, unit(quadratic, weight))
    supports = []
    while not solver.done(state):
        state = solver.step(quadratic, state)
        supports.append(state.sparse != 0)
    assert bool((supports[-1].view(-1, 4).sum(1) <= 2).all())
    assert torch.equal(supports[-1], supports[-2])
    assert not torch.equal(supports[-2], supports[-3])
