"""Whether a gain is more than noise, and more than the solution that it displaces would win by more samples."""

import pytest
import torch

from prox24_export.passes.refine.improvement import LEAST_SHARE, expect_gain_of_more, find_least_gain, improves


def test_an_improvement_counts_where_it_is_more_than_noise() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert improves(before, before - 0.1)
    assert not improves(before, before)
    assert not improves(before, before - torch.tensor([1.0, -1.0, 1.0, -0.8]))
    assert not improves(before, before * torch.nan)


def test_an_improvement_counts_where_it_is_more_than_asked_for() -> None:
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert improves(before, before - 0.1, 0.09)
    assert not improves(before, before - 0.1, 0.11)


def test_the_expected_gain_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    now, later, truth = 200, 250, torch.ones(8, dtype=torch.float64)

    def risk(solution: torch.Tensor) -> torch.Tensor:
        return (1 + (solution - truth).square().sum()).reshape(1)  # of new samples, noise included

    expected = gained = 0.0
    for _ in range(500):
        x = torch.randn(later, len(truth), generator=generator, dtype=torch.float64)
        y = x @ truth + torch.randn(later, generator=generator, dtype=torch.float64)
        few, many = (torch.linalg.lstsq(x[:count], y[:count]).solution for count in (now, later))
        seen = (x[:now] @ few - y[:now]).square()
        gap = float(risk(few) - seen.mean())
        assert expect_gain_of_more(risk(few), seen, later / now) == pytest.approx(max(0.0, gap) / 10)
        expected += gap / 10
        gained += float(risk(few) - risk(many))
    assert expected == pytest.approx(gained, rel=0.15)


def test_without_a_gap_nothing_is_expected() -> None:
    assert expect_gain_of_more(torch.tensor([1.0]), torch.tensor([2.0]), 1.25) == 0


@pytest.mark.parametrize(("unseen", "seen"), [([], [1.0]), ([1.0], [])])
def test_nothing_is_asked_for_where_nothing_was_measured(unseen: list[float], seen: list[float]) -> None:
    assert find_least_gain(torch.tensor(unseen), torch.tensor(seen), 1.25) == 0


def test_samples_that_differ_among_themselves_do_not_hide_what_more_of_them_win() -> None:
    unseen, harder, easier = torch.tensor([2.0, 4.0]), torch.tensor([3.0, 5.0]), torch.tensor([0.5, 1.5])
    assert find_least_gain(unseen, harder, 1.25) == pytest.approx(3 * LEAST_SHARE)
    assert find_least_gain(unseen, easier, 1.25) == expect_gain_of_more(unseen, easier, 1.25) > 3 * LEAST_SHARE
    assert find_least_gain(unseen, torch.zeros(0), 1.25) == 0
