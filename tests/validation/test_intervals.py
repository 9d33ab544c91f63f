"""What the bootstrap promises: coverage, above all where few samples change."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.validation import intervals
from prox24_export.validation.intervals import FloatArray, PairedRows, estimate_change, estimate_interval

TRIALS = 300
Draw = Callable[[np.random.Generator], PairedRows]


def hits(dense_only: float, sparse_only: float, samples: int) -> Draw:
    """Of all samples one share is right only in the dense model, one only in the sparse one; 90 % of others in both."""

    def draw(random: np.random.Generator) -> PairedRows:
        place = random.random(samples)
        both = random.random(samples) < 0.9
        dense = np.where(place < dense_only, True, np.where(place < dense_only + sparse_only, False, both))
        sparse = np.where(place < dense_only, False, np.where(place < dense_only + sparse_only, True, both))
        return PairedRows(100.0 * dense, 100.0 * sparse, np.ones(samples), atom=100.0)

    return draw


def perplexity(samples: int) -> Draw:
    """Rows of unequal length whose surprise moves by a skewed amount, 0.1 nats a token in the mean."""

    def draw(random: np.random.Generator) -> PairedRows:
        weight = random.integers(16, 256, samples).astype(np.float64)
        dense = weight * random.normal(2.0, 0.3, samples)
        return PairedRows(dense, dense + weight * random.exponential(0.1, samples), weight, of=np.exp)

    return draw


def cosines(samples: int) -> Draw:
    return lambda random: PairedRows(np.ones(samples), 1 - random.exponential(0.01, samples), np.ones(samples))


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 800)


def coverage(draw: Draw, truth: float, find: Callable[[PairedRows, int], tuple[float, float]]) -> float:
    """Share of trials whose interval holds the truth."""
    random = np.random.default_rng(5)
    held = 0
    for trial in range(TRIALS):
        low, high = find(draw(random), trial)
        held += low - 1e-9 <= truth <= high + 1e-9
    return held / TRIALS


def find_ours(rows: PairedRows, seed: int) -> tuple[float, float]:
    found = estimate_change("m", rows, seed=seed)
    assert found is not None
    assert found.low <= found.value <= found.high
    return found.low, found.high


def find_plain(rows: PairedRows, seed: int) -> tuple[float, float]:
    """The percentile interval."""
    return estimate_interval(np.stack([rows.dense, rows.sparse, rows.weight], axis=1), difference(rows), seed=seed)


def difference(rows: PairedRows) -> Callable[[FloatArray], FloatArray]:
    return lambda sums: rows.of(sums[:, 1] / sums[:, 2]) - rows.of(sums[:, 0] / sums[:, 2])


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize(
    ("dense_only", "sparse_only", "samples"),
    [(0.01, 0.0, 50), (0.02, 0.0, 50), (0.03, 0.01, 50), (0.02, 0.01, 100), (0.05, 0.02, 100), (0.03, 0.02, 500)],
)
def test_95_per_cent_of_intervals_of_top_1_hold_the_truth(dense_only: float, sparse_only: float, samples: int) -> None:
    ours = coverage(hits(dense_only, sparse_only, samples), 100 * (sparse_only - dense_only), find_ours)
    assert ours >= 0.92  # 0.95 less 2.4 standard errors of 300 trials


@pytest.mark.usefixtures("fewer_draws")
def test_the_plain_percentile_interval_would_not_hold_it() -> None:
    assert coverage(hits(0.01, 0.0, 50), -1.0, find_ours) >= 0.95
    assert coverage(hits(0.01, 0.0, 50), -1.0, find_plain) < 0.6


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("samples", [50, 200])
def test_intervals_of_perplexity_and_cosine_hold_the_truth_too(samples: int) -> None:
    # the perplexity of all rows is exp of the mean surprise of a token
    assert coverage(perplexity(samples), math.exp(2.1) - math.exp(2.0), find_ours) >= 0.92
    assert coverage(cosines(samples), -0.01, find_ours) >= 0.92


def test_it_is_paired_what_both_models_share_widens_nothing() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(0, 100, 200)
    rows = PairedRows(hard, hard - 1 + random.normal(0, 0.1, 200), np.ones(200))
    found = estimate_change("m", rows)
    assert found is not None
    assert found.high - found.low < 0.1
    shuffled = PairedRows(hard, random.permutation(rows.sparse), np.ones(200))
    apart = estimate_change("m", shuffled)
    assert apart is not None
    assert apart.high - apart.low > 10


def test_fifty_samples_of_which_none_changed_do_not_promise_that_none_does() -> None:
    same = np.full(50, 100.0)
    found = estimate_change("top1", PairedRows(same, same, np.ones(50), atom=100.0))
    assert found is not None
    assert found.value == 0
    assert 2 < found.high < 7  # the rule of three says 6 points
    assert found.low == pytest.approx(-found.high, abs=2)
    certain = estimate_change("cosine", PairedRows(same, same, np.ones(50)))
    assert certain is not None
    assert (certain.low, certain.high) == (0, 0)


def test_bonett_and_price_s_interval_is_what_is_drawn() -> None:
    samples, lost, won = 400, 24, 12
    dense, sparse = np.full(samples, 100.0), np.full(samples, 100.0)
    sparse[:lost], dense[lost : lost + won] = 0, 0
    found = estimate_change("top1", PairedRows(dense, sparse, np.ones(samples), atom=100.0))
    assert found is not None
    one, other = (lost + 1) / (samples + 2), (won + 1) / (samples + 2)
    half = 1.96 * math.sqrt((one + other - (one - other) ** 2) / (samples + 2))
    assert found.low == pytest.approx(100 * (other - one - half), abs=0.35)
    assert found.high == pytest.approx(100 * (other - one + half), abs=0.35)


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = perplexity(60)(np.random.default_rng(1))
    assert estimate_change("m", rows, seed=3) == estimate_change("m", rows, seed=3)
    assert estimate_change("m", rows, seed=3) != estimate_change("m", rows, seed=4)


def test_rows_that_are_equal_are_drawn_as_often_as_if_each_stood_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.repeat([0.0, 1.0, 3.0], [70, 20, 10])
    grouped = estimate_interval(values[:, None], lambda sums: sums[:, 0] / 100)
    alone = estimate_interval((values + np.arange(100) * 1e-9)[:, None], lambda sums: sums[:, 0] / 100)
    assert grouped == pytest.approx(alone, abs=0.03)
    monkeypatch.setattr(intervals, "PIECE", 64)  # many pieces
    assert estimate_interval(values[:, None], lambda sums: sums[:, 0] / 100) == pytest.approx(grouped, abs=0.03)


def test_a_million_samples_take_no_time_and_an_interval_as_narrow_as_they_deserve() -> None:
    found = estimate_change("top1", hits(0.02, 0.01, 1_000_000)(np.random.default_rng(0)))
    assert found is not None
    assert found.samples == 1_000_000
    assert found.high - found.low < 0.08


def test_one_sample_and_what_is_not_finite_have_no_interval() -> None:
    one = np.ones(1)
    assert estimate_change("m", PairedRows(one, one, one)) is None
    assert estimate_change("m", PairedRows(np.array([1.0, np.nan]), np.ones(2), np.ones(2))) is None
    with pytest.raises(ValueError, match="at least one, their sums finite"):
        estimate_interval(np.zeros((0, 2)), lambda sums: sums[:, 0])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 5)), min_size=2, max_size=40))
def test_the_interval_holds_the_figure_and_turns_with_the_models(pairs: list[tuple[bool, bool, int]]) -> None:
    table = np.array(pairs, np.float64)
    dense, sparse, weight = (100 * table[:, 0] * table[:, 2], 100 * table[:, 1] * table[:, 2], table[:, 2])
    there = estimate_change("m", PairedRows(dense, sparse, weight, atom=100.0))
    back = estimate_change("m", PairedRows(sparse, dense, weight, atom=100.0))
    assert there is not None
    assert back is not None
    assert there.low <= there.value <= there.high
    assert there.value == pytest.approx(-back.value)
    spread = there.high - there.low
    assert spread == pytest.approx(back.high - back.low, rel=0.3, abs=8)
