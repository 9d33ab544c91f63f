import pytest
import torch

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.refine import conjugate_gradient
from tests.solver.problems import best_on_mask, correlated, row_losses, weights


@pytest.mark.parametrize(("tokens", "k"), [(400, 32), (20, 32), (64, 4)])
def test_reaches_the_direct_solution_of_every_row(tokens: int, k: int) -> None:
    x = correlated(tokens, k)
    gram = x.T @ x / tokens + 0.01 * torch.eye(k, dtype=torch.float64)
    target = weights(12, k).double()
    mask = two_four_mask(target)
    solved, _ = conjugate_gradient(target, mask, gram, target, tolerance=1e-8, limit=500)
    best = torch.stack([best_on_mask(row, kept, gram) for row, kept in zip(target, mask, strict=True)])
    excess = row_losses(solved, target, gram) / row_losses(best, target, gram) - 1
    assert excess.max() < 1e-6
    assert bool((solved[~mask] == 0).all())


def test_stops_early_by_tolerance_and_reports_iterations() -> None:
    x = correlated(500, 64)
    gram = x.T @ x
    target = weights(8, 64).double()
    mask = two_four_mask(target)
    rough = conjugate_gradient(target, mask, gram, target, tolerance=1e-1)
    fine = conjugate_gradient(target, mask, gram, target, tolerance=1e-6)
    assert rough[1] < fine[1] < 100
    assert row_losses(fine[0], target, gram).sum() < row_losses(rough[0], target, gram).sum()


def test_a_row_that_is_solved_already_does_not_move() -> None:
    gram = torch.eye(8, dtype=torch.float64)
    target = torch.tensor([[1.0, 2, 0, 0, 0, 0, 3, 4]], dtype=torch.float64)
    solved, iterations = conjugate_gradient(target, target != 0, gram, target)
    assert iterations == 0
    assert torch.equal(solved, target)


def test_an_empty_support_gives_zeros_without_warning() -> None:
    target = weights(3, 8).double()
    solved, _ = conjugate_gradient(
        target, torch.zeros(3, 8, dtype=torch.bool), torch.eye(8, dtype=torch.float64), target
    )
    assert torch.equal(solved, torch.zeros_like(solved))
