"""Small graphs pruned by a stage's work: in this process, by workers, or on devices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from prox24_export import Settings
from prox24_export.data.sample_list import Sample
from prox24_export.data.samples import Parts
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.graph.protocol import TracedGraph
from prox24_export.progress import Silent
from prox24_export.stages.device import CPU, place_on
from prox24_export.stages.prune import PrunedLayers, prune
from prox24_export.stages.work.spread import Team
from tests.graphs import normal

PARTS = Parts(
    [Sample({"x": normal(4, 8, seed=seed)}) for seed in range(10)],
    [Sample({"x": normal(4, 8, seed=seed)}) for seed in range(20, 23)],
    (),
)
Pruned = tuple[dict[str, Array], PrunedLayers]


def pruned(
    graph: TracedGraph,
    folder: Path,
    team: Team | None = None,
    settings: Settings | None = None,
    *,
    parts: Parts = PARTS,
    devices: Sequence[torch.device] = (CPU,),
) -> Pruned:
    """Weights and rows of a small model, in calls of one sample each."""
    weights: dict[str, Array] = {}
    rows = prune(
        graph,
        FindLinears().call(graph=graph).layers,
        parts,
        weights,
        scratch=folder,
        size=1,
        settings=settings or Settings(),
        progress=Silent(),
        placement=place_on(graph, devices),
        team=team,
    )
    return weights, rows


def expect_the_same(first: Pruned, second: Pruned) -> None:
    """Weights are the same to the last bit, and so is what is reported of them, but for the seconds."""
    assert first[0].keys() == second[0].keys()
    assert all(np.array_equal(first[0][name].view(np.uint8), second[0][name].view(np.uint8)) for name in first[0])
    for one, other in zip(first[1].layers, second[1].layers, strict=True):
        assert {**vars(one), "seconds": None} == {**vars(other), "seconds": None}
    assert first[1].masks == second[1].masks
