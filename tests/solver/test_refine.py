import pytest
import torch

from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.refine import ConjugateGradient, MaskedGradient
from tests.solver.problems import best_on_mask, correlated, row_losses, weights


def problem(tokens: int, k: int, n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Target, mask, Gram matrix, and the best loss of each row by a direct solve."""
    x = correlated(tokens, k)
    gram = x.T @ x / tokens + 0.01 * torch.eye(k, dtype=torch.float64)
    target = weights(n, k).double()
    mask = two_four_mask(target)
    best = torch.stack([best_on_mask(row, kept, gram) for row, kept in zip(target, mask, strict=True)])
    return target, mask, gram, row_losses(best, target, gram)


@pytest.mark.parametrize(("tokens", "k"), [(400, 32), (20, 32), (64, 4)])
def test_reaches_the_direct_solution_of_every_row(tokens: int, k: int) -> None:
    target, mask, gram, best = problem(tokens, k)
    solved, _ = ConjugateGradient(tolerance=1e-9, limit=500).solve(target, mask, gram, target)
    assert (row_losses(solved, target, gram) / best - 1).max() < 1e-6
    assert bool((solved[~mask] == 0).all())


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_the_tolerance_bounds_what_every_row_leaves(tolerance: float) -> None:
    target, mask, gram, best = problem(200, 64, n=40)
    solved, _ = ConjugateGradient(tolerance).solve(target, mask, gram, target)
    excess = row_losses(solved, target, gram) / best - 1
    assert excess.max() < 3 * tolerance
    assert excess.mean() < tolerance


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_the_tolerance_holds_with_products_in_bfloat16(tolerance: float) -> None:
    target, mask, gram, best = problem(200, 64, n=40)
    solver = ConjugateGradient(tolerance, products="bf16")
    solved, _ = solver.solve(target.float(), mask, gram.float(), target.float())
    assert (row_losses(solved, target, gram) / best - 1).mean() < tolerance
    assert solved.dtype == torch.float32


def test_float32_reaches_what_float64_does() -> None:
    target, mask, gram, best = problem(400, 64)
    solved, iterations = ConjugateGradient(1e-6).solve(target.float(), mask, gram.float(), target.float())
    assert (row_losses(solved, target, gram) / best - 1).max() < 1e-5
    assert iterations < 100


def test_rows_that_stop_early_leave_the_products_and_keep_their_solution() -> None:
    """Rows of which most are solved at the start: what the others reach must not depend on their company."""
    target, mask, gram, _ = problem(400, 64, n=16)
    solver = ConjugateGradient(1e-9, limit=300)
    start = target.clone()
    start[:12] = solver.solve(target[:12], mask[:12], gram, target[:12])[0]
    together, _ = solver.solve(target, mask, gram, start)
    alone, _ = solver.solve(target[12:], mask[12:], gram, start[12:])
    torch.testing.assert_close(together[12:], alone, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together[:12], start[:12], rtol=1e-4, atol=1e-6)


def test_a_row_that_is_solved_already_does_not_move() -> None:
    gram = torch.eye(8, dtype=torch.float64)
    target = torch.tensor([[1.0, 2, 0, 0, 0, 0, 3, 4]], dtype=torch.float64)
    solved, iterations = ConjugateGradient().solve(target, target != 0, gram, target)
    assert iterations == 0
    assert torch.equal(solved, target)


@pytest.mark.parametrize("refine", [ConjugateGradient(), MaskedGradient(5)])
def test_an_empty_support_gives_zeros_without_warning(refine: ConjugateGradient | MaskedGradient) -> None:
    target = weights(3, 8).double()
    mask = torch.zeros(3, 8, dtype=torch.bool)
    solved, _ = refine.solve(target, mask, torch.eye(8, dtype=torch.float64), target)
    assert torch.equal(solved, torch.zeros_like(solved))


def test_masked_gradient_descends_to_the_same_weights_and_takes_longer() -> None:
    target, mask, gram, best = problem(400, 32)
    before = row_losses(target * mask, target, gram).sum()
    some, steps = MaskedGradient(10).solve(target, mask, gram, target)
    many, _ = MaskedGradient(20_000).solve(target, mask, gram, target)
    assert steps == 10
    assert best.sum() < row_losses(some, target, gram).sum() < before
    assert (row_losses(many, target, gram) / best - 1).max() < 1e-4
    quick, _ = ConjugateGradient(limit=10).solve(target, mask, gram, target)
    assert row_losses(quick, target, gram).sum() < row_losses(some, target, gram).sum()
