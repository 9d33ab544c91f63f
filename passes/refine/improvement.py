"""Whether refined weights are better than the solved ones: a paired test on samples that neither has seen."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_SHARE = 0.02  # of the objective that solving on the held-back samples, too, is taken to win at least
QUANTILE, QUANTILE_SLOPE = 1.28, 0.85  # Student's t, one-sided 10 %: about 1.28 + 0.85 / degrees of freedom


def improves(before: Float[Tensor, " samples"], after: Float[Tensor, " samples"], least: float = 0.0) -> bool:
    """Whether `after` is lower than `before` by more than `least` and noise, by a one-sided paired t-test at 10 %.

    The mean gain must exceed `least` by more than its standard error times the 90 % quantile of Student's t. With fewer
    than two samples nobody can tell, and the answer is no.
    """
    gains = (before - after).double()
    if len(gains) < 2 or not bool(torch.isfinite(gains).all()):  # noqa: PLR2004 (a deviation takes two)
        return False
    noise = float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) - least > (QUANTILE + QUANTILE_SLOPE / (len(gains) - 1)) * noise


def expect_gain_of_more(unseen: Float[Tensor, " samples"], seen: Float[Tensor, " samples"], more: float) -> float:
    """Expects by how much the objective falls where weights are fitted to more samples than they were.

    What a fit loses on unseen samples, against one to all samples that there could be, is as much as it wins on those
    that it has seen, and falls with their number (least squares: Akaike, "Statistical predictor identification", 1970).

    Args:
        unseen: The objective of samples that the weights were not fitted to.
        seen: That of samples that they were fitted to.
        more: How many times as many samples there would be.

    Returns:
        The expected fall of the mean of `unseen`; 0 where `seen` is the larger one.
    """
    gap = float(unseen.double().mean() - seen.double().mean())
    return max(0.0, gap) / 2 * (1 - 1 / more)


def find_least_gain(unseen: Float[Tensor, " samples"], seen: Float[Tensor, " samples"], more: float) -> float:
    """Finds what refined weights must win where the solution that they displace can be solved on more samples.

    That is what is expected by `expect_gain_of_more`, and at least 2 % of the objective: samples differ among
    themselves, and where the seen ones happen to be the harder ones, their gap to the others hides what is gained.

    Args:
        unseen: As for `expect_gain_of_more`.
        seen: Likewise.
        more: Likewise.

    Returns:
        The least fall of the mean of `unseen`; 0 where nothing was measured.
    """
    if not len(unseen) or not len(seen):
        return 0.0
    return max(expect_gain_of_more(unseen, seen, more), LEAST_SHARE * abs(float(unseen.double().mean())))
