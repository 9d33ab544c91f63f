"""Rounding to an integer grid, against every point of small grids and against the quadratic written out in float64."""

import itertools
from typing import Any

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.solver import solve_layer
from prox24_export.solver.pattern import is_two_four, two_four_mask
from prox24_export.solver.quadratic import Quadratic
from prox24_export.solver.rounding import round_to_grid, round_to_nearest
from tests.solver.problems import best_on_mask, correlated, row_losses, weights


def pruned(n: int, k: int, seed: int = 0) -> Tensor:
    weight = weights(n, k, seed)
    return weight * two_four_mask(weight)


def gram_of(tokens: int, k: int, seed: int = 0) -> Tensor:
    x = correlated(tokens, k, seed)
    return x.T @ x / tokens


def nearest(weight: Tensor, levels: int = 127) -> Tensor:
    integers, scales = round_to_nearest(weight, levels=levels)
    return integers * scales.double()[:, None]


def rounded(*arguments: Any, **options: Any) -> Tensor:
    """The weight that `round_to_grid` stands for, float64."""
    found = round_to_grid(*arguments, **options)
    return found.integers * found.scales.double()[:, None]


def best_on_grid(row: Tensor, scale: Tensor, gram: Tensor, levels: int) -> float:
    """The least loss of all integers on the support of a row."""
    support = torch.nonzero(row).flatten()
    points = torch.tensor(list(itertools.product(range(-levels, levels + 1), repeat=len(support)))).double()
    gaps = points * scale.double() - row[support].double()
    return float(((gaps @ gram[support][:, support]) * gaps).sum(1).min())


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_small_grids_are_solved_nearly_as_well_as_by_trying_every_point(levels: int) -> None:
    """Of 80 rows at least 90 % end in the best point there is for their scale, and all together within 2 % of it."""
    weight, gram = pruned(80, 8, seed=levels), gram_of(40, 8, seed=levels)
    found = round_to_grid(weight, gram, damping=0.0, levels=levels)
    reached = row_losses(found.weight, weight, gram)
    best = torch.tensor(
        [best_on_grid(row, scale, gram, levels) for row, scale in zip(weight, found.scales, strict=True)]
    )
    assert bool((reached >= best * (1 - 1e-5) - 1e-12).all())
    assert float((reached <= best * (1 + 1e-5) + 1e-12).double().mean()) >= 0.9
    assert float(reached.sum()) <= 1.02 * float(best.sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 60), st.integers(1, 127), st.integers(0, 9))
def test_no_row_is_worse_than_rounding_to_nearest(n: int, groups: int, tokens: int, levels: int, seed: int) -> None:
    weight, gram = pruned(n, 4 * groups, seed), gram_of(tokens, 4 * groups, seed)
    found = round_to_grid(weight, gram, damping=0.01, levels=levels)
    damped = Quadratic.of(gram, None, 0.01).gram
    exact = found.integers * found.scales.double()[:, None]
    ours, simple = (row_losses(v, weight, damped) for v in (exact, nearest(weight, levels)))
    assert bool((ours <= simple * (1 + 1e-9) + 1e-18).all())
    assert int(found.integers.abs().max()) <= levels
    assert bool((found.integers[weight == 0] == 0).all())
    assert is_two_four(found.integers)


def test_correlated_inputs_leave_far_less_than_half_of_the_loss_of_rounding_to_nearest() -> None:
    weight, gram = pruned(64, 256), gram_of(3000, 256)
    ours, simple = (row_losses(v, weight, gram).sum() for v in (rounded(weight, gram, tokens=3000), nearest(weight)))
    assert ours < 0.45 * simple


def test_no_single_move_gains_anything() -> None:
    weight, gram = pruned(12, 32), gram_of(300, 32)
    found = round_to_grid(weight, gram, damping=0.0)
    reached = row_losses(found.weight, weight, gram)
    for k in range(32):
        for by in (-1, 1):
            moved = found.integers.double()
            moved[:, k] += by
            other = row_losses(moved * found.scales.double()[:, None], weight, gram)
            may_move = (weight[:, k] != 0) & (moved[:, k].abs() <= 127)
            assert bool((other[may_move] >= reached[may_move] * (1 - 1e-5)).all())


def test_loss_and_relative_error_are_undamped_and_against_the_target() -> None:
    dense, gram = weights(6, 16), gram_of(200, 16)
    weight = solve_layer(dense, gram).weight
    found = round_to_grid(weight, gram, target=dense, damping=0.1)
    lost, whole = (float(row_losses(v, dense, gram).sum()) for v in (found.weight, torch.zeros_like(dense)))
    assert found.loss == pytest.approx(lost, rel=1e-6)
    assert found.relative_error == pytest.approx(lost / whole, rel=1e-6)


def test_with_a_target_the_surviving_weights_are_refined_first() -> None:
    dense, gram = weights(12, 32), gram_of(400, 32)
    mask = two_four_mask(dense)
    best = torch.stack([best_on_mask(row, kept, gram) for row, kept in zip(dense, mask, strict=True)])
    least = row_losses(best, dense, gram).sum()
    of_target = row_losses(rounded(dense * mask, gram, target=dense, damping=0.0), dense, gram).sum()
    assert least < of_target < 1.001 * least < row_losses(dense * mask, dense, gram).sum()


def test_quantised_inputs_are_made_good_for_with_their_cross_moment() -> None:
    """Inputs of four bits: what is refined for them is nearer to the dense output on tokens that nobody has seen."""
    x, unseen = correlated(4000, 32), correlated(4000, 32, seed=0).flip(0) + 0.1 * correlated(4000, 32, seed=2)
    step = float(x.abs().max()) / 7
    quantised, unseen_quantised = ((tokens / step).round().clamp(-7, 7) * step for tokens in (x, unseen))
    dense = weights(16, 32)
    sparse = solve_layer(dense, x.T @ x).weight

    def error(weight: Tensor) -> float:
        return float((unseen_quantised @ weight.T - unseen @ dense.double().T).square().sum())

    gram, cross = quantised.T @ quantised, x.T @ quantised
    aware = error(rounded(sparse, gram, target=dense, cross=cross, tokens=4000))
    assert aware < 0.98 * error(rounded(sparse, x.T @ x, tokens=4000))
    assert aware < error(rounded(sparse, gram, target=dense, cross=cross, blend=0.0, tokens=4000))


def test_one_thread_and_two_give_the_same_bytes() -> None:
    weight, gram = pruned(40, 64), gram_of(500, 64)
    threads = torch.get_num_threads(), numba.get_num_threads()
    found = []
    try:
        for count in (1, min(2, threads[1])):
            torch.set_num_threads(count)
            numba.set_num_threads(count)
            found.append(round_to_grid(weight, gram))
    finally:
        torch.set_num_threads(threads[0])
        numba.set_num_threads(threads[1])
    assert torch.equal(found[0].integers, found[1].integers)
    assert torch.equal(found[0].scales, found[1].scales)


def test_rows_that_are_rounded_in_parts_are_those_that_are_rounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = pruned(10, 16), gram_of(100, 16)
    together = round_to_grid(weight, gram)
    monkeypatch.setattr("prox24_export.solver.rounding.ROWS_AT_ONCE", 48)
    parts = round_to_grid(weight, gram)
    assert torch.equal(parts.integers, together.integers)
    assert parts.loss == pytest.approx(together.loss)


def test_float32_reaches_what_float64_does(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = pruned(32, 64), gram_of(1000, 64)
    exact = round_to_grid(weight, gram).loss
    monkeypatch.setattr("prox24_export.solver.rounding.ROUNDED_IN_FLOAT64", 0)
    assert round_to_grid(weight, gram).loss == pytest.approx(exact, rel=0.02)


def test_the_scale_of_the_moments_does_not_matter() -> None:
    weight, gram = pruned(8, 16), gram_of(100, 16)
    assert torch.equal(round_to_grid(weight, gram).integers, round_to_grid(weight, 1024 * gram).integers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_is_rounded(dtype: torch.dtype) -> None:
    found = round_to_grid(pruned(4, 8).to(dtype), gram_of(50, 8))
    assert (found.integers.dtype, found.scales.dtype, found.weight.dtype) == (torch.int8, torch.float32, torch.float32)


def test_a_dense_weight_is_rounded_too() -> None:
    weight, gram = weights(8, 10), gram_of(100, 10)
    assert row_losses(rounded(weight, gram), weight, gram).sum() < row_losses(nearest(weight), weight, gram).sum()


def test_a_row_of_zeros_has_scale_one() -> None:
    weight = pruned(3, 8)
    weight[1] = 0.0
    for integers, scales in (
        round_to_nearest(weight),
        ((found := round_to_grid(weight, gram_of(50, 8))).integers, found.scales),
    ):
        assert not bool(integers[1].any())
        assert float(scales[1]) == 1.0
    assert not bool(torch.signbit(round_to_grid(weight, gram_of(50, 8)).weight[weight == 0]).any())


def test_one_huge_entry_does_not_make_its_row_coarse_where_it_hardly_counts() -> None:
    """An entry 20 times the others, in a channel that is nearly silent: a finer scale is worth its loss."""
    weight = pruned(2, 16)
    first = int(torch.nonzero(weight[0]).flatten()[0])
    weight[0, first] = 20 * weight[0].abs().max()
    gram = torch.eye(16, dtype=torch.float64)
    gram[first, first] = 1e-9
    found = round_to_grid(weight, gram, damping=1e-9)
    assert float(found.scales[0]) < 0.3 * float(round_to_nearest(weight)[1][0])
    assert row_losses(found.weight, weight, gram)[0] < 0.1 * row_losses(nearest(weight), weight, gram)[0]


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e30])
def test_scales_stay_positive_and_finite_for_weights_of_any_size(size: float) -> None:
    found = round_to_grid(pruned(3, 8) * size, gram_of(50, 8))
    assert bool((found.scales > 0).all())
    assert bool(torch.isfinite(found.scales).all())


@pytest.mark.parametrize("damping", [0.01, None])
def test_silent_channels_and_a_zero_gram_matrix_are_rounded(damping: float | None) -> None:
    weight, gram = pruned(4, 8), gram_of(50, 8)
    gram[2], gram[:, 2] = 0.0, 0.0
    for moments in (gram, torch.zeros(8, 8)):
        found = round_to_grid(weight, moments, damping=damping)
        assert (found.weight - weight).abs().max() <= 2 * found.scales.max()
        assert found.relative_error < 1e-2


def test_no_rows_are_no_rows() -> None:
    assert round_to_grid(torch.zeros(0, 8), torch.eye(8)).integers.shape == (0, 8)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"weight": torch.full((2, 8), torch.nan)}, r"weight must be finite\. Got NaN or Inf"),
        ({"gram": torch.full((8, 8), torch.inf)}, r"gram must be finite\. Got NaN or Inf"),
        ({"gram": torch.eye(4)}, r"gram must have shape \(8, 8\) beside this weight\. Got \(4, 4\)"),
        ({"cross": torch.eye(4)}, r"cross must have shape \(8, 8\) beside this weight\. Got \(4, 4\)"),
        ({"target": torch.ones(3, 8)}, r"target must have shape \(2, 8\) beside this weight\. Got \(3, 8\)"),
        ({"residual": torch.ones(2, 4)}, r"residual must have shape \(2, 8\) beside this weight\. Got \(2, 4\)"),
        ({"levels": 0}, r"levels must be 1 to 127.* Got 0"),
        ({"levels": 128}, r"levels must be 1 to 127.* Got 128"),
        ({"gram": torch.eye(8) - 0.5}, r"gram must be XᵀX, which has no negative eigenvalues"),
    ],
)
def test_what_cannot_be_rounded_is_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_to_grid(**{"weight": pruned(2, 8), "gram": torch.eye(8)} | given_)
