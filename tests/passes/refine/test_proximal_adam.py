"""Masks that move: the operator with a strength for each group, and a planted mask that only moving finds."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.passes.refine.adam import MaskedAdam
from prox24_export.passes.refine.clock import Clock
from prox24_export.passes.refine.move_masks import move_masks
from prox24_export.passes.refine.proximal_adam import ProximalAdam, keep_two_largest, prox_by_group
from prox24_export.passes.refine.state import Epoch, Part, RefineProgress, TrainingState
from prox24_export.passes.refine.training import Training
from prox24_export.solver.pattern import is_two_four
from prox24_export.solver.prox import prox24

STEPS, PLANNED = 8, 160
WANTED = torch.tensor([[1.0, 0.0, -0.8, 0.0, 0.0, 0.9, 1.1, 0.0]])
START = {"w": torch.tensor([[1.0, 0.3, 0.0, 0.0, 0.0, 0.9, 1.1, 0.0]])}  # one entry of the first group is wrong
GROUPS = {"w": torch.arange(8).reshape(2, 4)}


def project(weights: Mapping[str, Tensor], batch: Tensor) -> Tensor:
    """A regression, whose samples are the rows of a batch: its last column is the target."""
    return (batch[:, :-1] @ weights["w"][0] - batch[:, -1]).square()


def draw(count: int, seed: int) -> Tensor:
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x, (x @ WANTED[0])[:, None]], 1)


def epoch(number: int) -> Iterator[Tensor]:
    return iter(draw(16 * STEPS, 100 + number).reshape(STEPS, 16, -1))


def judge(weights: Mapping[str, Tensor]) -> Tensor:
    return project(weights, draw(64, 1))


def move(start: Mapping[str, Tensor], clock: Clock | None = None) -> Part:
    adam = ProximalAdam.with_groups(project, start, GROUPS)
    return move_masks(
        adam, start, epoch, judge, steps=STEPS, planned=PLANNED, clock=clock or Clock(), note=lambda _: None
    )


@given(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), st.floats(0.01, 100))
def test_every_group_has_its_own_strength(entries: list[float], strength: float) -> None:
    group, other = torch.tensor([entries]), torch.tensor([[1.0, -2.0, 0.5, 0.25]])
    found = prox_by_group(torch.cat([group, other]).double(), torch.tensor([[strength], [0.1]]).double())
    torch.testing.assert_close(found[:1], prox24(group.double(), strength), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found[1:], prox24(other.double(), 0.1), rtol=1e-7, atol=1e-7)


def test_the_two_largest_of_each_group_are_kept_and_the_lower_index_among_equals() -> None:
    weights = {"w": torch.tensor([[1.0, -1.0, 1.0, 0.5], [0.0, 3.0, -4.0, 0.0]]).T, "bias": torch.ones(3)}
    groups = {"w": torch.arange(8).reshape(4, 2).T}  # along the first axis
    kept = keep_two_largest(weights, groups)
    wanted = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 3.0, -4.0, 0.0]]).T
    assert torch.equal(kept["w"], wanted)
    assert torch.equal(kept["bias"], weights["bias"])
    assert float(weights["w"][2, 0]) == 1.0


def test_a_wrong_mask_moves_to_the_planted_one_and_fixed_masks_cannot() -> None:
    moved = move(START)
    assert torch.equal(moved.weights["w"] != 0, WANTED != 0)
    assert is_two_four(moved.weights["w"])
    assert not moved.weights["w"][moved.weights["w"] == 0].signbit().any()
    adam = MaskedAdam.of(project, START, {"w": START["w"] != 0})
    fixed = TrainingState.start(START, 1e-2, 3e-2, PLANNED)
    Training(adam, STEPS, PLANNED, math.inf, Clock()).run(fixed, epoch, judge, lambda _: None)
    assert float(moved.after.mean()) < 0.2 * float(fixed.after.mean())
    assert float(moved.before.mean()) == pytest.approx(float(judge(START).mean()))
    assert all(point.held <= 1.02 * moved.curve[0].held for point in moved.curve)


def test_masks_that_are_right_stay() -> None:
    right = {"w": torch.where(WANTED != 0, WANTED + 0.05, 0.0)}
    moved = move(right)
    assert torch.equal(moved.weights["w"] != 0, WANTED != 0)
    assert float(moved.after.mean()) < float(moved.before.mean())


def test_without_time_nothing_moves() -> None:
    moved = move(START, Clock(0.0))
    assert torch.equal(moved.weights["w"], START["w"])
    assert moved.limited


def test_a_group_of_zeros_stays_finite() -> None:
    start = {"w": torch.zeros(1, 8)}
    moved = move(start)
    assert torch.isfinite(moved.weights["w"]).all()
    assert is_two_four(moved.weights["w"])


def test_the_curve_of_moving_masks_comes_first_and_progress_keeps_it(tmp_path: Path) -> None:
    def part(*held: float, taken_back: int) -> Part:
        curve = tuple(Epoch(number, 0.5, value) for number, value in enumerate(held))
        return Part({"w": torch.ones(2)}, curve, torch.ones(2), torch.ones(2), True, taken_back)

    moved, tuned = part(4.0, 3.0, taken_back=1), part(3.0, 2.0, 1.0, taken_back=2)
    joined = tuned.after_moving(moved)
    assert [(point.number, point.held) for point in joined.curve] == [(0, 4.0), (1, 3.0), (2, 2.0), (3, 1.0)]
    assert joined.taken_back == 3
    RefineProgress(moved=moved, seconds=7.0).save(tmp_path / "state")
    read = RefineProgress.load(tmp_path / "state")
    assert read.moved is not None
    assert (read.moved.curve, read.seconds, read.parts) == (moved.curve, 7.0, [])
