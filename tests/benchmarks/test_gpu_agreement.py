"""The GPU benchmark's comparison of kernels with the reference, on the CPU's kernels and on wrong ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import agreement
from prox24_export.solver.prox import prox24, splitting_step

CPU = torch.device("cpu")
SMALL = ((1, 4), (3, 7, 8), (257, 4))


def test_the_cpu_kernels_agree_with_the_reference_on_every_kind_of_group() -> None:
    rows = agreement.compare_prox(CPU, SMALL) + agreement.compare_steps(CPU, SMALL)
    assert len(rows) == 3 * 2 * len(agreement.FAMILIES)
    assert [row for row in rows if not row["agrees"]] == []
    assert {row["groups"] for row in rows} == {len(agreement.STRENGTHS) * (1 + 42 + 257)}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda z, s: prox24(z, 1.01 * s), "apart"),
        (lambda z, _: prox24(z, 1e3), "objective_excess"),
        (lambda z, s: -prox24(-z, s), "negative_zeros"),
    ],
)
def test_a_wrong_prox_is_noticed(
    wrong: Callable[[Tensor, float], Tensor], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "prox24", wrong)
    normal = next(row for row in agreement.compare_prox(CPU, SMALL) if row["groups_of"] == "normal")
    assert normal["agrees"] is False
    assert normal[field] > 1e-6


@pytest.mark.parametrize(("shift", "gap_too"), [(1, False), (0, True)])
def test_a_step_that_miscounts_or_leaves_another_gap_is_noticed(
    shift: int, *, gap_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> tuple[int, int]:
        unsettled, changed = splitting_step(*arguments)
        if gap_too:
            arguments[1].mul_(1.001)
        return unsettled + shift, changed

    monkeypatch.setattr(agreement, "splitting_step", wrong)
    rows = {row["kernel"]: row for row in agreement.compare_steps(CPU, SMALL) if row["groups_of"] == "normal"}
    assert rows["splitting_step"]["agrees"] is False
    assert bool(rows["splitting_step"]["miscounted_calls"]) is not gap_too
    assert rows["gradient_step"]["agrees"] is True


def test_where_minimisers_are_tied_either_is_as_good() -> None:
    v = torch.tensor([[2.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    one, other = (torch.tensor([entries], dtype=torch.float64) for entries in ((2.0, 1.0, 0, 0), (2.0, 0, 1.0, 0)))
    seen = agreement.Comparison()
    seen.add(one, other, v, 1.0, 1e-12)
    assert (seen.apart, seen.worse) == (1, 0.0)
    assert not seen.agrees(agreement.Tolerance(1e-12, 1e-12, 0.5))  # one of one: more than the share that may be apart
    assert seen.agrees(agreement.Tolerance(1e-12, 1e-12, 1.0))
