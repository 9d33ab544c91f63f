"""The training: no epoch is worse than the start, it goes on while it helps, and its limit of time is one."""

import copy
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.state import TrainingState
from prox24_export.passes.refine.training import Training

WIDTH, STEPS, PLANNED = 32, 6, 60


def project(weights: Mapping[str, Tensor], batch: Tensor) -> Tensor:
    """A regression, whose samples are the rows of a batch: its last column is the target."""
    return (batch[:, :-1] @ weights["w"] - batch[:, -1]).square()


def draw(count: int, seed: int) -> Tensor:
    """Samples of a regression with correlated inputs: many directions matter little."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator) * torch.linspace(0.05, 1.5, WIDTH)
    wanted = torch.linspace(-1, 1, WIDTH)
    return torch.cat([x, (x @ wanted + 0.1 * torch.randn(count, generator=generator))[:, None]], 1)


HELD, START = draw(64, 1), {"w": torch.linspace(-1, 1, WIDTH) * 1.1 + 0.1}
MASK = {"w": torch.arange(WIDTH) % 2 == 0}


def epoch(number: int) -> Iterator[Tensor]:
    return iter(draw(8 * STEPS, 100 + number).reshape(STEPS, 8, -1))


def judge(weights: Mapping[str, Tensor]) -> Tensor:
    return project(weights, HELD)


def train(rate: float, clock: Clock | None = None, most: int = PLANNED, enough: float = 0.0) -> TrainingState:
    state = TrainingState.start(START, rate, max(rate, 3e-2), PLANNED)
    adam = MaskedAdam.of(project, START, {})
    return Training(adam, STEPS, most, enough, clock or Clock()).run(state, epoch, judge, lambda _: None)


def test_a_training_that_goes_on_from_any_step_ends_with_the_same_bytes() -> None:
    adam, noted = MaskedAdam.of(project, START, {}), []
    training = Training(adam, STEPS, 4 * PLANNED, 0.0, Clock())

    def note(state: TrainingState) -> None:
        noted.append(copy.deepcopy(state))

    whole = training.run(TrainingState.start(START, 1e-3, 3e-2, PLANNED), epoch, judge, note, note)
    assert whole.planned > PLANNED  # it went on while it helped, which is decided after an epoch
    assert {len(state.losses) for state in noted} == set(range(STEPS + 1))  # between two epochs and after each step
    for state in noted[::17]:
        resumed = training.run(state, epoch, judge, lambda _: None)
        assert torch.equal(resumed.best["w"], whole.best["w"])
        assert resumed.curve[1:] == whole.curve[1:]  # the first has no train objective: NaN


def test_finishing_goes_on_from_any_step_with_the_same_bytes() -> None:
    training, noted = Training(MaskedAdam.of(project, START, {}), STEPS, PLANNED, 0.0, Clock()), []
    state = train(1e-3)
    whole = training.finish(state, epoch, judge, lambda state: noted.append(copy.deepcopy(state)))
    assert len(noted) == round(0.1 * PLANNED)
    for state in noted:
        assert torch.equal(training.finish(state, epoch, judge)["w"], whole["w"])


@given(st.floats(-6, 3))
def test_no_epoch_is_worse_than_the_start_whatever_the_rate(power: float) -> None:
    state = train(10**power)
    start = state.curve[0].held
    assert all(point.held <= 1.02 * start for point in state.curve)
    assert float(judge(state.best).mean()) == pytest.approx(min(point.held for point in state.curve))
    assert state.step <= PLANNED + STEPS
    assert [point.number for point in state.curve] == list(range(len(state.curve)))


def test_a_rate_that_destroys_is_taken_back_until_one_helps() -> None:
    state = train(3.0, most=10 * PLANNED)
    assert state.taken_back > 0
    assert state.rate < 3.0
    assert float(state.after.mean()) < 0.9 * float(state.before.mean())


def test_a_rate_that_is_too_small_rises() -> None:
    state = train(1e-5)
    assert state.rate > 1e-4
    assert state.taken_back == 0


def test_it_goes_on_while_the_objective_falls_and_no_further() -> None:
    longer = train(1e-4, most=10 * PLANNED)
    assert PLANNED < longer.step < 10 * PLANNED
    assert float(longer.after.mean()) < float(train(1e-4).after.mean())
    assert train(1e-4, most=10 * PLANNED, enough=1.0).step == PLANNED


def test_pruned_weights_stay_zero_and_the_average_is_judged() -> None:
    start = {"w": START["w"] * MASK["w"]}
    state, apart = TrainingState.start(start, 1e-3, 3e-2, PLANNED), []

    def note(state: TrainingState) -> None:
        apart.append(not torch.equal(state.average["w"], state.weights["w"]))
        torch.testing.assert_close(judge(state.average).mean(), torch.tensor(state.curve[-1].held))

    Training(MaskedAdam.of(project, start, MASK), STEPS, PLANNED, 0.0, Clock()).run(state, epoch, judge, note)
    for weights in (state.weights, state.average, state.best):
        assert not weights["w"][~MASK["w"]].any()
    assert apart[:2] == [False, True]


def test_finishing_learns_from_all_samples_gently() -> None:
    state = train(1e-3)
    best, steps = state.best["w"].clone(), state.step
    weights = Training(MaskedAdam.of(project, START, {}), STEPS, PLANNED, 0.0, Clock()).finish(state, epoch, judge)
    assert state.step - steps == round(0.1 * steps)
    assert torch.equal(state.best["w"], best)
    assert 0 < float((weights["w"] - best).norm()) < 0.1 * float((best - START["w"]).norm())


def test_finishing_that_harms_is_left_out() -> None:
    state = train(1e-3)
    best, state.rate = state.best["w"].clone(), 1e3
    weights = Training(MaskedAdam.of(project, START, {}), STEPS, PLANNED, 0.0, Clock()).finish(state, epoch, judge)
    assert torch.equal(weights["w"], best)


class Hands:
    """The time of a clock that stands still but for steps and judging, in seconds."""

    def __init__(self, step: float = 1.0) -> None:
        self.now, self.step = 0.0, step

    def project(self, weights: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        self.now += self.step
        return project(weights, batch)

    def judge(self, weights: Mapping[str, Tensor]) -> Tensor:
        self.now += 4
        return judge(weights)


@pytest.mark.parametrize("limit", [1.0, 12.0, 40.0, 57.0])
def test_it_ends_within_one_step_of_its_limit_and_the_rate_falls_before(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands()
    monkeypatch.setattr(time, "perf_counter", lambda: hands.now)
    state = TrainingState.start(START, 1e-3, 3e-2, 10_000)
    seen: list[Tensor] = []

    def note(state: TrainingState) -> None:
        seen.append(state.weights["w"].clone())

    training = Training(MaskedAdam.of(hands.project, START, {}), STEPS, 10_000, 0.0, Clock(limit, made=0.0))
    training.run(state, epoch, hands.judge, note)
    assert hands.now <= max(limit, 4) + 1
    assert state.limited
    with_rest = replace(training, clock=Clock(limit + 20, made=0.0))
    with_rest.finish(state, epoch, hands.judge)
    assert hands.now <= max(limit + 20, 4) + 1
    moved = [float((after - before).norm()) for before, after in itertools.pairwise(seen)]
    if len(moved) > 3:
        assert moved[-1] < moved[-2]
    assert float(state.after.mean()) <= float(state.before.mean())


def test_the_speed_of_the_machine_changes_no_byte_where_the_limit_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seconds in (0.001, 0.9):
        hands = Hands(seconds)
        monkeypatch.setattr(time, "perf_counter", lambda hands=hands: hands.now)

        def begun(number: int, hands: Hands = hands, seconds: float = seconds) -> Iterator[Tensor]:
            hands.now += seconds  # what the first batch takes to come
            return epoch(number)

        training = Training(MaskedAdam.of(hands.project, START, {}), STEPS, PLANNED, 0.0, Clock(600, made=0.0))
        state = training.run(TrainingState.start(START, 1e-3, 3e-2, PLANNED), begun, hands.judge, lambda _: None)
        found.append(training.finish(state, begun, hands.judge)["w"])
    assert torch.equal(*found)
