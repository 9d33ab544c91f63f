"""The rate is found by trial steps: it is the one that brute force over all rates finds, and the start stays."""

import math
import time
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam, PerSample
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.rate import FACTOR, FASTEST, SLOWEST, find_rate
from prox24_export.passes.refine.state import TrainingState

WIDTH = 64
BATCHES = [normal for seed in range(12) for normal in [torch.randn(8, generator=torch.Generator().manual_seed(seed))]]


def valley(distance: float, noise: float = 0.0) -> tuple[PerSample, dict[str, Tensor]]:
    """Squared distances from a target, which each sample sees with noise; the start is so far from it."""
    target = torch.linspace(1, 2, WIDTH)
    start = {"w": target * (1 + distance)}
    return lambda weights, batch: ((weights["w"] - target - noise * batch[:, None]) ** 2).sum(1), start


def reach(objective: PerSample, start: dict[str, Tensor], rate: float) -> float:
    adam, state = MaskedAdam.of(objective, start, {}), TrainingState.start(start, rate, rate, 8)
    for batch in BATCHES[:8]:
        adam.step(state, batch, rate, 1)
    return float(torch.cat([objective(state.weights, batch) for batch in BATCHES[8:]]).mean())


@pytest.mark.parametrize("distance", [1.0, 0.1, 0.01, 0.001])
def test_it_is_the_best_of_all_rates_on_batches_that_the_steps_do_not_see(distance: float) -> None:
    objective, start = valley(distance, noise=distance)
    rates = [FASTEST * FACTOR**power for power in range(8) if FASTEST * FACTOR**power >= SLOWEST]
    best = min(rates, key=lambda rate: reach(objective, start, rate))
    found = find_rate(MaskedAdam.of(objective, start, {}), start, BATCHES, Clock())
    assert found == pytest.approx(best)
    assert found < distance


def test_where_no_step_helps_it_is_the_smallest() -> None:
    objective, start = valley(0.0)
    assert find_rate(MaskedAdam.of(objective, start, {}), start, BATCHES, Clock()) == SLOWEST
    broken = MaskedAdam.of(lambda weights, _: weights["w"] * math.nan, start, {})
    assert find_rate(broken, start, BATCHES, Clock()) == SLOWEST


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_batches_are_enough_and_the_start_stays(count: int) -> None:
    objective, start = valley(0.1)
    before = start["w"].clone()
    assert find_rate(MaskedAdam.of(objective, start, {}), start, BATCHES[:count], Clock()) > SLOWEST
    assert torch.equal(start["w"], before)


def test_trials_end_with_their_share_of_the_time() -> None:
    tried = []

    def note(weights: dict[str, Tensor], batch: Tensor) -> Tensor:
        tried.append(batch)
        return weights["w"].sum() * batch

    assert find_rate(MaskedAdam.of(note, {"w": torch.ones(4)}, {}), {"w": torch.ones(4)}, BATCHES, Clock(0)) == SLOWEST  # type: ignore[arg-type] # a dictionary is a mapping
    assert len(tried) == 4


def test_a_trial_stops_within_one_step_where_the_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def take_a_second(weights: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        now[0] += 1
        return weights["w"].sum() * batch

    start = {"w": torch.ones(4)}
    assert find_rate(MaskedAdam.of(take_a_second, start, {}), start, BATCHES, Clock(40, made=0.0)) == SLOWEST
    assert now[0] == 6  # four batches that judge the start, and two steps: 15 % of forty seconds
