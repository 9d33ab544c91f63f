"""Whether the last axis of an output holds classes, so that its arg-max says something.

An arg-max over hidden units or coordinates says nothing, and a share of equal ones looks like an accuracy. So the last
axis counts as classes only where one of these is known:

- labels were given, and are of this output;
- the output holds a causal language model's logits of the next token;
- its rows are probabilities, or their logarithms, as those behind a Softmax or LogSoftmax are;
- it is named as exporters name scores of classes: a word of its name is one of `CLASS_WORDS`.
"""

import re

import numpy as np

from prox24_export.passes.graph.arrays import Array

CLASS_WORDS = frozenset(
    {"logit", "logits", "prob", "probs", "probability", "probabilities", "softmax", "logsoftmax", "logprobs"}
)
ROUNDING = 1e-2  # by how much the sum of a row of probabilities may differ from 1; float16 needs as much


def is_named_as_classes(name: str) -> bool:
    """Whether a word in the name of an output, such as `start_logits`, says that it holds scores of classes."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1_\2", name)
    return any(word in CLASS_WORDS for word in re.split(r"[^a-z]+", apart.lower()))


def holds_probabilities(output: Array) -> bool:
    """Whether every row along the last axis holds probabilities that sum to 1, or the logarithms of such."""
    if not output.size:
        return False
    if (output >= 0).all():
        return _sums_to_one(output)
    return bool((output <= 0).all()) and _sums_to_one(np.exp(output))


def find_largest(output: Array) -> Array:
    """Finds the index of the largest entry along the last axis; −1 where a row holds NaN, which has no largest."""
    found: Array = output.argmax(-1)  # that of the first NaN where there is one
    largest = np.take_along_axis(output, found[..., None], axis=-1)[..., 0]
    return np.where(np.isnan(largest), -1, found)


def _sums_to_one(rows: Array) -> bool:
    return bool((np.abs(rows.sum(-1, dtype=np.float64) - 1) <= ROUNDING).all())
