"""Pruned layers, builder logs and engine layers for tests of the diagnosis."""

from collections.abc import Sequence
from dataclasses import replace

from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.results.engine import LayerDiagnosis

SPARSE = "sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tn_n_sptensor16x8x32"
DENSE = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x32x64"


def wide(name: str, **more: object) -> PrunedLayer:
    """A layer of which nothing speaks against a sparse tactic."""
    return replace(PrunedLayer(name, "MatMul", 1024, 1024, 1024), **more)  # type: ignore[arg-type]


def log_of(eligible: Sequence[str], chosen: Sequence[str], **more: object) -> SparsityLog:
    lists = (LayerList(tuple(names), len(names)) for names in (eligible, chosen))
    eligible_list, chosen_list = lists
    return replace(SparsityLog(eligible_list, chosen_list, is_verbose=True), **more)  # type: ignore[arg-type]


def gemm(name: str, tactic: str, *nodes: str, **more: object) -> EngineLayer:
    return replace(EngineLayer(name, "gemm", tactic, nodes), **more)  # type: ignore[arg-type]


def only(
    layer: PrunedLayer, log: SparsityLog | None, engine: Sequence[EngineLayer] | None, *, allowed: bool = True
) -> LayerDiagnosis:
    ((diagnosis,), disagreements) = diagnose([layer], log, engine, allowed=allowed)
    assert not disagreements
    return diagnosis


def states(diagnosis: LayerDiagnosis) -> tuple[bool, bool | None, bool | None]:
    return diagnosis.pattern, diagnosis.eligible, diagnosis.chosen
