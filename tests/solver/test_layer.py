import dataclasses
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from prox24_export.option_values import LayerMethod
from prox24_export.solver import LayerTask, SolverSettings, Status, solve_layer, solve_layers
from prox24_export.solver.admm import ProximalAdmm
from prox24_export.solver.pattern import is_two_four
from prox24_export.solver.quadratic import Quadratic
from prox24_export.solver.refine import MaskedGradient
from prox24_export.solver.solution import cut_rows, join_rows
from tests.solver.problems import best_on_mask, correlated, row_losses, two_four_masks, weights

METHODS = get_args(LayerMethod)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "k", "tokens"), [(16, 32, 300), (1, 4, 50), (7, 12, 5), (3, 64, 1)])
def test_every_method_is_two_four_on_every_shape(method: LayerMethod, n: int, k: int, tokens: int) -> None:
    x = correlated(tokens, k)
    solution = solve_layer(weights(n, k), x.T @ x, tokens=tokens, settings=SolverSettings(method))
    assert solution.weight.shape == (n, k)
    assert is_two_four(solution.weight)
    assert torch.equal(solution.mask, solution.weight != 0)
    assert 0 <= solution.relative_error < 1
    assert not bool(torch.signbit(solution.weight[~solution.mask]).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_device_are_the_weights(dtype: torch.dtype) -> None:
    x = correlated(200, 16)
    weight = weights(8, 16).to(dtype)
    solution = solve_layer(weight, x.T @ x)
    assert solution.weight.dtype == dtype
    assert solution.weight.device == weight.device
    assert is_two_four(solution.weight)


def test_loss_is_undamped_and_against_the_target() -> None:
    x = correlated(100, 16)
    weight, gram = weights(4, 16), x.T @ x
    solution = solve_layer(weight, gram, settings=SolverSettings(damping=0.1))
    loss = float(row_losses(solution.weight, weight, gram).sum())
    assert solution.loss == pytest.approx(loss, rel=1e-9)
    norm = float(row_losses(weight, torch.zeros_like(weight), gram).sum())
    assert solution.relative_error == pytest.approx(loss / norm, rel=1e-6)


@pytest.mark.parametrize("method", ["prox", "prox-gradient"])
def test_rounding_of_a_runtime_flips_no_mask(method: LayerMethod) -> None:
    """Layer after layer reads what the ones before it leave: what rounding changes here would grow from there on."""
    x, dense, weight = correlated(4000, 64), correlated(4000, 64, seed=1), weights(256, 64)
    gram, cross = x.T.double() @ x.double(), 0.1 * dense.T.double() @ x.double() + 0.9 * x.T.double() @ x.double()
    noise = 1 + 1e-9 * torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (solve_layer(weight, gram * by, cross * by, 4000, SolverSettings(method)) for by in (1, noise))
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-6)


def test_scale_of_the_moments_does_not_matter() -> None:
    x = correlated(100, 16)
    weight, gram = weights(4, 16), x.T @ x
    one = solve_layer(weight, gram, tokens=100)
    other = solve_layer(weight, 64 * gram, tokens=100)
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.weight, other.weight)


def test_prox_comes_close_to_the_best_of_all_masks_and_beats_the_baselines() -> None:
    k, rows = 8, 60
    settings = {method: SolverSettings(method, damping=0.001) for method in METHODS}
    excess = dict.fromkeys(METHODS, 0.0)
    for seed in range(rows // 4):
        x = correlated(64, k, seed)
        weight, gram = weights(4, k, seed), x.T @ x
        best = torch.full((4,), float("inf"), dtype=torch.float64)
        for mask in two_four_masks(k):
            on_mask = torch.stack([best_on_mask(row, mask, gram) for row in weight])
            best = torch.minimum(best, row_losses(on_mask, weight, gram))
        for method in METHODS:
            solution = solve_layer(weight, gram, settings=settings[method])
            relative = row_losses(solution.weight, weight, gram) / best - 1
            assert relative.min() > -1e-6
            excess[method] += float(relative.sum()) / rows
    assert excess["prox"] < 0.5 * excess["sparsegpt"]
    assert excess["prox-gradient"] < excess["sparsegpt"] < excess["wanda"]
    assert excess["prox"] < min(excess["wanda"], excess["magnitude"])


def test_aiming_at_the_dense_output_lowers_its_error() -> None:
    dense = correlated(400, 16)
    pruned = dense + 0.3 * correlated(400, 16, seed=5)
    weight = weights(8, 16)
    gram, cross = pruned.T @ pruned, dense.T @ pruned

    def error(solution: torch.Tensor) -> float:
        return float((pruned @ solution.double().T - dense @ weight.double().T).square().sum())

    aimed = solve_layer(weight, gram, cross, settings=SolverSettings(blend=1.0))
    plain = solve_layer(weight, gram, cross, settings=SolverSettings(blend=0.0))
    assert error(aimed.weight) < 0.95 * error(plain.weight)
    assert torch.equal(plain.weight, solve_layer(weight, gram).weight)


def test_a_residual_branch_that_moved_is_made_good() -> None:
    x = correlated(400, 16)
    weight, moved = weights(8, 16), x @ weights(8, 16, seed=9).double().T
    residual = moved.T @ x  # (r_d − r_s)ᵀ X with r_d − r_s = moved

    def error(solution: torch.Tensor) -> float:
        return float((x @ solution.double().T - x @ weight.double().T - moved).square().sum())

    aware = solve_layer(weight, x.T @ x, residual=residual)
    blind = solve_layer(weight, x.T @ x)
    assert error(aware.weight) < 0.5 * error(blind.weight)


@pytest.mark.parametrize("method", METHODS)
def test_dead_and_duplicated_channels_and_constant_weights_work(method: LayerMethod) -> None:
    x = correlated(100, 16)
    x[:, 3] = 0
    x[:, 5] = x[:, 4]
    settings = SolverSettings(method)
    assert is_two_four(solve_layer(weights(4, 16), x.T @ x, settings=settings).weight)
    constant = solve_layer(torch.ones(4, 16), x.T @ x, settings=settings)
    assert is_two_four(constant.weight)
    assert bool(torch.isfinite(constant.weight).all())


def test_a_zero_gram_matrix_says_so() -> None:
    solution = solve_layer(weights(4, 8), torch.zeros(8, 8))
    assert solution.status is Status.ZERO_GRAM
    assert is_two_four(solution.weight)


def test_a_weight_that_is_two_four_already_is_returned_as_it_is() -> None:
    weight = torch.tensor([[1.0, -0.0, 0.0, 2.0]])
    solution = solve_layer(weight, torch.eye(4))
    assert solution.status is Status.ALREADY_SPARSE
    assert torch.equal(solution.weight, weight)
    assert not bool(torch.signbit(solution.weight).any())


def test_a_failed_factorisation_says_so_and_is_still_two_four() -> None:
    gram = -torch.eye(8, dtype=torch.float64)
    gram[0, 0] = 100.0  # positive mean diagonal, indefinite
    for method in ("prox", "sparsegpt"):
        solution = solve_layer(weights(4, 8), gram, settings=SolverSettings(method))
        assert solution.status is Status.FACTORISATION_FAILED
        assert is_two_four(solution.weight)


def test_the_iteration_limit_is_reported() -> None:
    x = correlated(100, 16)
    short = SolverSettings(mask_solver=dataclasses.replace(ProximalAdmm(), limit=2))
    solution = solve_layer(weights(4, 16), x.T @ x, settings=short)
    assert solution.status is Status.LIMIT
    assert solution.iterations == 2
    assert is_two_four(solution.weight)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_of_rows_give_what_all_rows_give(method: LayerMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    x, dense = correlated(200, 16), correlated(200, 16, seed=1)
    weight, residual = weights(32, 16), 0.1 * weights(32, 16, seed=2).double()
    settings = SolverSettings(method, blend=0.5)
    whole = solve_layer(weight, x.T @ x, dense.T @ x, settings=settings, residual=residual)
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 16 * 8)
    pieces = solve_layer(weight, x.T @ x, dense.T @ x, settings=settings, residual=residual)
    assert is_two_four(pieces.weight)
    # Rows are independent, but the iteration stops when all rows at hand have settled.
    assert pieces.relative_error == pytest.approx(whole.relative_error, rel=0.02)
    assert (pieces.mask == whole.mask).float().mean() > 0.98


@pytest.mark.parametrize("method", METHODS)
def test_layers_side_by_side_are_solved_as_each_alone(method: LayerMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, so that a run that goes on with half of them solved ends as one that was not interrupted."""
    x, dense = correlated(200, 16), correlated(200, 16, seed=1)
    gram, cross, settings = x.T @ x, dense.T @ x, SolverSettings(method)
    residual = 0.1 * weights(40, 16, seed=2).double()
    sparse = torch.tensor([[1.0, 0.0, 0.0, 2.0]]).repeat(3, 4)
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 16 * 12)
    tasks = [LayerTask(weights(30, 16), 0.5), LayerTask(sparse), LayerTask(weights(40, 16, seed=1), 1.0, residual)]
    together = list(solve_layers(iter(tasks), gram, cross, 200, settings))
    assert [solution.status is Status.ALREADY_SPARSE for solution in together] == [False, True, False]
    for task, one in zip(tasks, together, strict=True):
        blended = dataclasses.replace(settings, blend=task.blend)
        alone = solve_layer(task.weight, gram, cross, 200, blended, residual=task.residual)
        assert torch.equal(one.weight, alone.weight)
        assert (one.loss, one.iterations, one.status) == (alone.loss, alone.iterations, alone.status)


@pytest.mark.parametrize("method", METHODS)
def test_pieces_of_a_layer_that_are_solved_apart_join_to_the_layer(
    method: LayerMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, dense = correlated(200, 16), correlated(200, 16, seed=1)
    gram, cross, settings = x.T @ x, dense.T @ x, SolverSettings(method)
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 16 * 12)
    weight = weights(40, 16)
    weight[:10] = torch.tensor([1.0, 0.0, 0.0, 2.0]).repeat(4)  # a piece that is 2:4, in a layer that is not
    whole = LayerTask(weight, 0.5, 0.1 * weights(40, 16, seed=2).double())
    (expected,) = solve_layers([whole], gram, cross, 200, settings)
    pieces = cut_rows(*weight.shape)
    assert len(pieces) == 4
    apart = [next(solve_layers([dataclasses.replace(whole, rows=rows)], gram, cross, 200, settings)) for rows in pieces]
    joined = join_rows(apart)
    assert torch.equal(joined.weight, expected.weight)
    assert torch.equal(joined.mask, expected.mask)
    for name in ("loss", "energy", "relative_error", "iterations", "refinement_iterations", "status"):
        assert getattr(joined, name) == getattr(expected, name)
    with pytest.raises(ValueError, match=r"pieces must be those of a layer\. Got none\."):
        join_rows([])


def test_an_inverse_is_made_once_for_rows_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    inverse = Quadratic.inverse

    def counted(quadratic: Quadratic, ridge: float, dtype: torch.dtype) -> Tensor:
        made.append(ridge)
        return inverse(quadratic, ridge, dtype)

    monkeypatch.setattr(Quadratic, "inverse", counted)
    monkeypatch.setattr("prox24_export.solver.solution.ROWS_AT_ONCE", 64 * 8)  # all eight pieces fit beside each other
    x = correlated(300, 64)
    tasks = [LayerTask(weights(16, 64, seed)) for seed in range(4)]
    solutions = list(solve_layers(tasks, x.T @ x, tokens=300))
    assert (
        len(made)
        == len(set(made))
        == -(-(max(one.iterations for one in solutions) - 1) // ProximalAdmm().penalty_every)
    )


def test_the_papers_refinement_is_at_hand() -> None:
    x = correlated(200, 16)
    gradient = solve_layer(weights(8, 16), x.T @ x, settings=SolverSettings(refinement=MaskedGradient(2000)))
    conjugate = solve_layer(weights(8, 16), x.T @ x)
    assert torch.equal(gradient.mask, conjugate.mask)
    assert gradient.relative_error == pytest.approx(conjugate.relative_error, rel=1e-3)
    assert (gradient.refinement_iterations, conjugate.refinement_iterations > 0) == (2000, True)


@pytest.mark.parametrize("rows", [1, 3000])
def test_few_tokens_one_group_and_many_rows(rows: int) -> None:
    for k, tokens in ((4, 2), (64, 16)):
        x = correlated(tokens, k)
        for dtype in (torch.float16, torch.bfloat16):
            weight = weights(rows, k).to(dtype)
            solution = solve_layer(weight, x.T @ x, tokens=tokens)
            assert is_two_four(solution.weight)
            assert solution.status is Status.SETTLED
            assert solution.relative_error < 0.2


@pytest.mark.parametrize(
    ("weight", "gram", "message"),
    [
        (torch.ones(2, 6), torch.eye(6), r"K % 4 == 0\. Got shape \[2, 6\]"),
        (torch.ones(2, 8), torch.eye(4), r"gram must have shape .*\(8, 8\)\. Got \(4, 4\)"),
        (torch.ones(2, 4), torch.full((4, 4), float("nan")), "gram must be finite"),
        (torch.full((2, 4), float("inf")), torch.eye(4), "weight must be finite"),
    ],
)
def test_bad_input_is_refused(weight: torch.Tensor, gram: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_layer(weight, gram)


@pytest.mark.parametrize("method", ["prox", "magnitude"])
def test_the_loss_is_that_of_what_is_stored(
    method: Literal["prox", "magnitude"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "prox24_export.solver.solution.ROWS_AT_ONCE", 3 * 16
    )  # three rows at a time: each is rounded as the row that it is
    x = correlated(100, 16)
    weight, gram = weights(8, 16), x.T @ x
    steps = torch.linspace(0.2, 0.9, 8)[:, None]

    def rounding(rows: Tensor, part: slice) -> Tensor:
        return (rows / steps[part]).round() * steps[part]

    solution = solve_layer(weight, gram, settings=SolverSettings(method), rounding=rounding)
    torch.testing.assert_close(solution.weight / steps, (solution.weight / steps).round())
    assert torch.equal(solution.mask, solution.weight != 0)
    assert is_two_four(solution.weight)
    assert solution.loss == pytest.approx(float(row_losses(solution.weight, weight, gram).sum()), rel=1e-4)
    assert solution.loss > solve_layer(weight, gram, settings=SolverSettings(method)).loss
