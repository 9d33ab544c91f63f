import torch

from prox24_export.solver import baselines
from prox24_export.solver.pattern import is_two_four
from tests.solver.problems import correlated, weights


def sparsegpt_by_columns(weight: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """The published algorithm without blocks: one column at a time, the inverse of the remaining Gram matrix."""
    work, columns = weight.double().clone(), weight.shape[1]
    hessian = gram.double().clone()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    mask = torch.zeros_like(work, dtype=torch.bool)
    for column in range(columns):
        inverse = torch.linalg.inv(hessian[column:, column:])
        if column % 4 == 0:
            # 1 / U_jj² of the whole group needs the inverse after each earlier column of it is gone
            pivots = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(column, column + 4)])
            kept = (work[:, column : column + 4].square() / pivots).topk(2, dim=1).indices
            mask[:, column : column + 4].scatter_(1, kept, True)
        error = torch.where(mask[:, column], 0.0, work[:, column]) / inverse[0, 0]
        work[:, column:] -= error[:, None] * inverse[0]
        work[:, column] = torch.where(mask[:, column], work[:, column], 0.0)
    return work


def test_sparsegpt_equals_the_algorithm_written_column_by_column() -> None:
    x = correlated(600, 160)
    gram, weight = x.T @ x, weights(6, 160)
    blocked = baselines.SparseGpt.of(gram).solve(weight)
    plain = sparsegpt_by_columns(weight, gram)
    assert torch.equal(blocked != 0, plain != 0)
    torch.testing.assert_close(blocked.double(), plain, rtol=1e-4, atol=1e-6)


def test_wanda_ranks_by_weight_times_input_norm_and_keeps_weights() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mask = baselines.wanda(weight, torch.tensor([100.0, 1.0, 1.0, 0.01]))
    assert mask.tolist() == [[True, False, True, False]]


def test_magnitude_keeps_the_two_largest() -> None:
    mask = baselines.magnitude(torch.tensor([[1.0, -5.0, 3.0, 4.0]]))
    assert mask.tolist() == [[False, True, False, True]]


def test_sparsegpt_zeroes_dead_channels_as_published() -> None:
    x = correlated(100, 8)
    x[:, 2] = 0
    solution = baselines.SparseGpt.of(x.T @ x).solve(weights(4, 8))
    assert is_two_four(solution)
    assert bool((solution[:, 2] == 0).all())
