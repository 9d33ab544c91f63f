"""The measures of outputs: they agree with their definitions, and the values of an output tell which one fits."""

import math

import pytest
import torch
from torch import Tensor, nn

from prox24_export.passes.refine.loss import LossKind, OutputLoss, find_finite, measure_spread, normalised_error

LOGITS = torch.tensor([[4.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
OTHERS = torch.tensor([[3.0, 0.0, 0.5], [1.0, 1.0, -2.0]])


def test_kl_is_the_divergence_of_the_distributions() -> None:
    dense, sparse = (torch.softmax(x.double(), -1) for x in (LOGITS, OTHERS))
    wanted = (dense * (dense / sparse).log()).sum(-1)
    got = OutputLoss("kl").of(OTHERS, LOGITS, 2)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


def test_logits_are_compared_up_to_a_constant_and_are_the_limit_of_kl() -> None:
    loss = OutputLoss("logits", scale=2.0)
    torch.testing.assert_close(loss.of(OTHERS + 7, LOGITS, 2), loss.of(OTHERS, LOGITS, 2))
    flat = 100.0**2 * OutputLoss("kl").of(OTHERS / 100, LOGITS / 100, 2)
    torch.testing.assert_close(loss.of(OTHERS, LOGITS, 2), flat, rtol=5e-2, atol=0)


def test_the_other_measures_agree_with_their_definitions() -> None:
    difference = (OTHERS.double() - LOGITS.double()).square().mean(1)
    torch.testing.assert_close(
        OutputLoss("mse", scale=4.0).of(OTHERS, LOGITS, 2).double(), difference / 4, rtol=1e-5, atol=1e-6
    )
    cosine = (OTHERS * LOGITS).double().sum(1) / (OTHERS.double().norm(dim=1) * LOGITS.double().norm(dim=1))
    torch.testing.assert_close(OutputLoss("cosine").of(OTHERS, LOGITS, 2).double(), 1 - cosine, rtol=1e-5, atol=1e-6)
    of_probabilities = OutputLoss("probabilities").of(OTHERS.softmax(-1), LOGITS.softmax(-1), 2)
    torch.testing.assert_close(of_probabilities, OutputLoss("kl").of(OTHERS, LOGITS, 2))
    certain, impossible = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(OutputLoss("probabilities").of(impossible, certain, 1), torch.tensor([2.0]).log())
    assert not OutputLoss("none").of(torch.ones(2, 3), torch.zeros(2, 3), 2).any()


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("logits", LOGITS),
        ("kl", LOGITS[:, None].expand(2, 4, 3)),
        ("probabilities", LOGITS.softmax(-1)),
        ("cosine", nn.functional.normalize(LOGITS, dim=-1)),
        ("mse", LOGITS[None, None]),  # an image
        ("mse", LOGITS / 100),  # an undecided softmax
        ("mse", LOGITS[:, :1]),
        ("none", LOGITS.long()),
    ],
)
def test_the_measure_of_an_output_is_told_by_its_values(kind: LossKind, output: Tensor) -> None:
    assert OutputLoss.detect(output).kind == kind


@pytest.mark.parametrize("hidden", [-math.inf, math.nan])
@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        LOGITS[:, None].expand(2, 4, 3),
        LOGITS.softmax(-1),
        nn.functional.normalize(LOGITS, dim=-1),
        LOGITS[None, None],
        LOGITS / 100,
    ],
)
def test_entries_that_the_dense_network_masks_change_nothing(output: Tensor, hidden: float) -> None:
    others = output + 0.1 * torch.cos(torch.arange(3.0))
    masked, other = (nn.functional.pad(x, (1, 1), value=hidden) for x in (output, others))
    other = other.detach().nan_to_num(neginf=3.0, nan=5.0).requires_grad_()  # what a moved mask may show there
    plain, loss = OutputLoss.detect(output), OutputLoss.detect(masked)
    assert loss.kind == plain.kind
    assert loss.scale == pytest.approx(plain.scale, rel=1e-5)
    got = loss.of(other, masked, len(output))
    torch.testing.assert_close(got.detach(), plain.of(others, output, len(output)), rtol=1e-5, atol=1e-6)
    got.mean().backward()  # type: ignore[no-untyped-call] # torch's
    gradient = other.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    assert not gradient[..., [0, -1]].any()


@pytest.mark.parametrize("kind", ["logits", "kl", "probabilities", "cosine", "mse"])
def test_a_sample_of_which_nothing_is_finite_has_no_error(kind: LossKind) -> None:
    masked = torch.stack([torch.full((3,), -math.inf), LOGITS[0]])
    values = OutputLoss(kind).of(OTHERS, masked, 2)
    assert values[0] == 0
    assert bool(torch.isfinite(values).all())
    assert measure_spread(torch.full((2, 3), -math.inf)) > 0
    assert normalised_error(OTHERS, masked, 1.0, 2)[0] == 0


def test_entries_are_told_from_numbers_although_their_sum_overflows() -> None:
    large = torch.tensor([3e38, 3e38])
    assert torch.isinf(large.sum())
    assert find_finite(large) is None
    assert find_finite(torch.tensor([1, 2])) is None
    for hidden in (math.inf, -math.inf, math.nan):
        found = find_finite(torch.tensor([3e38, 3e38, hidden, -3e38]))
        assert found is not None
        assert found.tolist() == [True, True, False, True]
