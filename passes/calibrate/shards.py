"""Runs of batches that are summed up by themselves: the same ones whoever sums them, one process or many.

Sums of floats depend on their order. Each run is therefore added up in the order of its batches, and the runs in their
own order; how many workers there are changes nothing.
"""

import itertools
from collections.abc import Sequence

from prox24_export.passes.calibrate.streams import Batch

MOST_SHARDS = 8  # of the fit part; with the choice part, a fifth of all, more would not be done sooner


def cut_shards(batches: Sequence[Batch]) -> list[range]:
    """Cuts batches into runs by the data alone.

    While a run of the fit part is summed up, its sums are in memory beside those of the runs before it, where later
    those of the choice part are; so this takes no memory. The choice part is one run for that reason, and so is the fit
    part where there is no other.

    Args:
        batches: The batches, those of a part one after another.

    Returns:
        The places of the batches of each run; together they are all places, in order.
    """
    places: dict[str, list[int]] = {}
    for place, batch in enumerate(batches):
        places.setdefault(batch.part, []).append(place)
    shards = []
    for part, own in places.items():
        count = min(MOST_SHARDS, len(own)) if part == "fit" and len(places) > 1 else 1
        cuts = [own[0] + len(own) * cut // count for cut in range(count + 1)]
        shards += [range(start, stop) for start, stop in itertools.pairwise(cuts)]
    return shards
