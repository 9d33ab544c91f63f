"""The 2:4 pattern: masks, counts, zeros."""

import itertools
import re

import pytest
import torch

from prox24_export.solver.pattern import count_violations, groups_of_four, is_two_four, positive_zeros, two_four_mask

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def mask_by_sorting(group: list[float]) -> list[bool]:
    kept = sorted(range(4), key=lambda i: (-abs(group[i]), i))[:2]
    return [i in kept for i in range(4)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_is_that_of_a_stable_sort_for_every_order_and_every_tie(dtype: torch.dtype) -> None:
    groups = [list(group) for group in itertools.product([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0], repeat=4)]
    expected = [mask_by_sorting(group) for group in groups]
    assert two_four_mask(torch.tensor(groups, dtype=dtype)).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_tells_neighbouring_values_apart(dtype: torch.dtype) -> None:
    one, step = 1.0, torch.finfo(dtype).eps
    weight = torch.tensor([[one, one, one, one + step], [one, -one - step, one, one + step]], dtype=dtype)
    assert two_four_mask(weight).tolist() == [[True, False, False, True], [False, True, False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mask_keeps_two_in_every_group_where_a_threshold_would_keep_three(dtype: torch.dtype) -> None:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    groups = groups_of_four(weight).abs()
    second = groups.sort(dim=-1, descending=True).values[..., 1:2]
    assert ((groups >= second).sum(dim=-1) > 2).any(), "the sample has no ties, so it shows nothing"
    assert (groups_of_four(two_four_mask(weight)).sum(dim=-1) == 2).all()


def test_mask_has_the_shape_of_the_weight_whatever_its_axes_and_strides() -> None:
    weight = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    mask = two_four_mask(weight)
    assert mask.shape == weight.shape
    assert torch.equal(mask, two_four_mask(weight.contiguous()))
    assert two_four_mask(torch.ones(4)).tolist() == [True, True, False, False]
    assert two_four_mask(torch.ones(3, 0)).shape == (3, 0)


@pytest.mark.parametrize("shape", [(3, 6), (8, 2), ()])
def test_an_axis_that_does_not_split_is_refused(shape: tuple[int, ...]) -> None:
    sentence = (
        f"weight must have a last axis that is a multiple of 4. Got shape {shape}. "
        "Put the input channels on the last axis, or leave this weight dense."
    )
    for function in (two_four_mask, count_violations, groups_of_four):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            function(torch.ones(shape))


def test_nan_has_no_rank() -> None:
    weight = torch.ones(2, 4)
    weight[1, 2] = torch.nan
    sentence = (
        "weight must hold no NaN, which has no magnitude to rank. Got 1 NaN in shape (2, 4). "
        "Repair the weight before pruning it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        two_four_mask(weight)


def test_violations_are_groups_with_more_than_two_non_zeros() -> None:
    weight = torch.tensor([[1.0, 2.0, 0.0, 0.0, 1.0, 2.0, -0.0, -0.0], [1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 1e-45]])
    assert count_violations(weight) == 2
    assert not is_two_four(weight)
    assert is_two_four(weight[0])
    assert is_two_four(torch.where(two_four_mask(weight), weight, 0.0))
    assert count_violations(torch.tensor([[1, 2, 3, 0]], dtype=torch.int8)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_become_positive_and_nothing_else_changes(dtype: torch.dtype) -> None:
    weight = torch.tensor([-0.0, 0.0, -1.5, torch.inf, torch.finfo(dtype).tiny, -torch.finfo(dtype).tiny], dtype=dtype)
    cleaned = positive_zeros(weight)
    assert cleaned.dtype == dtype
    assert torch.equal(cleaned, weight)
    assert cleaned.signbit().tolist() == [False, False, True, False, False, True]
    assert weight.signbit()[0], "the argument itself is left alone"
    assert positive_zeros(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_groups_are_consecutive_along_the_last_axis(shape: tuple[int, ...]) -> None:
    weight = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    groups = groups_of_four(weight)
    assert groups.shape == (*shape[:-1], 2, 4)
    assert groups.flatten().tolist() == weight.flatten().tolist()
    assert groups.data_ptr() == weight.data_ptr(), "no copy was needed"
