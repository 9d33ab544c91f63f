"""Whether refined weights are better than the solved ones: a paired test on samples that neither has seen."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

QUANTILE, QUANTILE_SLOPE = 1.28, 0.85  # Student's t, one-sided 10 %: about 1.28 + 0.85 / degrees of freedom


def improves(before: Float[Tensor, " samples"], after: Float[Tensor, " samples"]) -> bool:
    """Whether `after` is lower than `before` by more than noise, by a one-sided paired t-test at 10 %.

    The mean gain must exceed its standard error times the 90 % quantile of Student's t. With fewer than two samples
    nobody can tell, and the answer is no.
    """
    gains = (before - after).double()
    if len(gains) < 2 or not bool(torch.isfinite(gains).all()):  # noqa: PLR2004 (a deviation takes two)
        return False
    noise = float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) > (QUANTILE + QUANTILE_SLOPE / (len(gains) - 1)) * noise
