"""Error rates over words or other tokens of a sequence, for `--metric`: what decodes outputs to words is the user's.

    from prox24_export.validation.word_level import error_counts, greedy_ctc

    def wer(run, batches):  # a speech model whose labels are token numbers, padded with -1
        return error_counts(
            (words(reference), words(found))
            for feeds, labels in batches
            for reference, found in zip(labels, greedy_ctc(run(feeds)["logits"]), strict=True)
        )

    wer.better = "lower"

`words` turns token numbers into a list of words, as the model's vocabulary wants it. Of token classification nothing
has to be decoded: `labels` with −100 at all but the first piece of each word make top-1 the share of words that are
right.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from prox24_export.passes.graph.arrays import Array


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Fewest substitutions, deletions and insertions that turn one sequence into the other (Levenshtein).

    Takes `O(len(reference) · len(found))` time, and memory for one row.
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
    """Errors and words of each sample, [n] each: a metric by sample whose value is the word error rate.

    Args:
        pairs: Reference and what was found, as lists of words or tokens; a string is a sequence of characters.
    """
    counts = [(edit_distance(reference, found), len(reference)) for reference, found in pairs]
    table: Array = np.asarray(counts, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def greedy_ctc(logits: Array, blank: int = 0) -> list[list[int]]:
    """Tokens of each sample: the largest at each step, repeats taken once, blanks left out.

    Args:
        logits: [N, T, C].
        blank: Which class it is.
    """
    best = logits.argmax(-1)
    return [
        [int(token) for index, token in enumerate(row) if token != blank and (index == 0 or token != row[index - 1])]
        for row in best
    ]
