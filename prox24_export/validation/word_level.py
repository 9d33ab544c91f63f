"""Error rates over words or other tokens of a sequence, for `--metric`. Decoding outputs to words is up to the user.

    from prox24_export.validation.word_level import error_counts, greedy_ctc

    def wer(run, batches):  # a speech model whose labels are token numbers, padded with -1
        return error_counts(
            (words(reference), words(found))
            for feeds, labels in batches
            for reference, found in zip(labels, greedy_ctc(run(feeds)["logits"]), strict=True)
        )

    wer.better = "lower"

`words` is a function of the user's that turns token numbers into a list of words by the model's vocabulary. Token
classification needs no decoding: where `labels` are −100 at all but the first piece of each word, top-1 is the share of
words that are right.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from prox24_export.passes.graph.arrays import Array


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Counts the fewest substitutions, deletions and insertions that turn one sequence into the other (Levenshtein).

    It takes `O(len(reference) · len(found))` time, and memory for one row.
    """
    row = list(range(len(found) + 1))
    for above, token in enumerate(reference, start=1):
        diagonal, row[0] = row[0], above
        for place, other in enumerate(found, start=1):
            substituted = diagonal + (token != other)
            diagonal = row[place]
            row[place] = min(substituted, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def error_counts(pairs: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> tuple[Array, Array]:
    """Counts the errors and the words of each sample, int64 [n] each, as a metric by sample: the word error rate.

    Args:
        pairs: The reference of each sample and what was found, as lists of words or tokens; a string is a sequence of
            characters.
    """
    counts = [(edit_distance(reference, found), len(reference)) for reference, found in pairs]
    table: Array = np.asarray(counts, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def greedy_ctc(logits: Array, blank: int = 0) -> list[list[int]]:
    """Decodes the tokens of each sample: the likeliest at each step, with repeats taken once and blanks left out.

    Args:
        logits: The model's output [N, T, C].
        blank: The class that stands for no token.
    """
    best = logits.argmax(-1)
    return [
        [int(token) for index, token in enumerate(row) if token != blank and (index == 0 or token != row[index - 1])]
        for row in best
    ]
