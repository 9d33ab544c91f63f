"""The states of every pruned layer in a TensorRT engine, and why one is missing.

There are three: the weight is 2:4, the layer is eligible for a sparse tactic, a sparse tactic was chosen.
"""

from collections.abc import Sequence

from prox24_export.engines.diagnosis import reasons
from prox24_export.engines.diagnosis.builder_log import SparsityLog
from prox24_export.engines.diagnosis.findings import NOTHING, Finding, find_evidence, may_hold_pruned
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.layer_names import split_name
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.results.engine import LayerDiagnosis


def diagnose(
    layers: Sequence[PrunedLayer],
    log: SparsityLog | None,
    engine_layers: Sequence[EngineLayer] | None,
    *,
    allowed: bool = True,
) -> tuple[tuple[LayerDiagnosis, ...], tuple[str, ...]]:
    """Finds out what became of every pruned layer, from the builder log and the inspector.

    Where these disagree on a layer, it counts as neither chosen nor not chosen: the disagreement is reported, and not
    resolved.

    Args:
        layers: Every node that multiplies by a pruned weight.
        log: The log of the build; None where none was captured.
        engine_layers: The engine's layers from the inspector; None where it was not asked.
        allowed: Whether the engine was built with SPARSE_WEIGHTS.

    Returns:
        A diagnosis for each layer, and the disagreements that no single layer shows, a sentence each.
    """
    pruned = frozenset(layer.name for layer in layers)
    found = [find_evidence(layer.name, pruned, log or NOTHING, engine_layers or ()) for layer in layers]
    diagnoses = tuple(
        _diagnose_layer(layer, finding, log, allowed=allowed) for layer, finding in zip(layers, found, strict=True)
    )
    return diagnoses, tuple(_find_disagreements(pruned, log, engine_layers))


def _diagnose_layer(layer: PrunedLayer, finding: Finding, log: SparsityLog | None, *, allowed: bool) -> LayerDiagnosis:
    disagreement = _find_disagreement(finding)
    chosen = finding.inspected if finding.chosen is None else finding.chosen
    chosen = None if disagreement else chosen
    shown = next(iter((*finding.sparse_products, *finding.engine_layers)), None)
    reason, remedy = _find_reason(layer, finding, log, chosen, disagreement, allowed=allowed)
    return LayerDiagnosis(
        name=layer.name,
        pattern=layer.is_two_four,
        eligible=finding.eligible,
        chosen=chosen,
        engine_layer=shown.name if shown else "",
        tactic=shown.tactic if shown else "",
        reason=reason,
        remedy=remedy,
        disagreement=disagreement,
    )


def _find_disagreement(finding: Finding) -> str:
    sparse, products = finding.sparse_products, finding.products
    if 0 < len(sparse) < len(products):
        dense = next(product for product in products if not product.is_sparse)
        return f"the inspector shows a sparse tactic in {sparse[0].name} and a dense one in {dense.name}"
    if finding.inspected is None or finding.inspected == finding.chosen:
        return ""
    if finding.chosen and not finding.inspected:
        shown = f"the dense tactic {products[0].tactic} in {products[0].name}" if products else "a plugin"
        return f"the builder log lists it as chosen (as {finding.listed_as}); the inspector shows {shown}"
    if sparse and (finding.chosen is False or finding.eligible is False):
        state = "chosen" if finding.chosen is False else "eligible"
        return (
            f"the builder log does not list it as {state}; the inspector shows the sparse tactic "
            f"{sparse[0].tactic} in {sparse[0].name}"
        )
    return ""


def _find_reason(
    layer: PrunedLayer,
    finding: Finding,
    log: SparsityLog | None,
    chosen: bool | None,
    disagreement: str,
    *,
    allowed: bool,
) -> tuple[str, str]:
    """Finds the surest reason for a missing state and its remedy; both are empty where no state is missing."""
    if disagreement:
        return "builder log and inspector contradict each other", "look at the kernel names in a profile (nsys)"
    if layer.is_two_four and finding.eligible and chosen:
        return "", ""
    build = None if chosen and allowed and layer.is_two_four else reasons.explain_build(layer, allowed=allowed)
    is_refused = chosen is False or finding.eligible is False
    known = reasons.explain_layer(layer, finding) if is_refused and not chosen else None
    untold = reasons.explain_log(log) if finding.eligible is None and (known is None or chosen is None) else None
    return build or untold or known or reasons.admit_unexplained(is_eligible=bool(finding.eligible), chosen=chosen)


def _find_disagreements(
    pruned: frozenset[str], log: SparsityLog | None, engine_layers: Sequence[EngineLayer] | None
) -> list[str]:
    """Finds the disagreements that no single layer shows: names that stand for no pruned layer, and totals."""
    if log is None or log.chosen is None or engine_layers is None:
        return []
    sparse = [layer for layer in engine_layers if layer.is_sparse]
    found = [
        f"the builder log says that a sparse tactic was chosen for {name}, which is no pruned layer of the model"
        for name in log.chosen.names
        if not may_hold_pruned(name, (), pruned, log)
    ]
    found += [
        f"the inspector shows the sparse tactic {layer.tactic} in {layer.name}, which is no pruned layer of the model"
        for layer in sparse
        if not may_hold_pruned(layer.name, layer.onnx_nodes, pruned, log)
    ]
    distinct = {split_name(layer.name) for layer in sparse}  # each optimisation profile has its own copy
    if log.chosen.count != len(distinct):
        found.append(
            f"the builder log counts {log.chosen.count} layers with sparse tactics, the inspector shows {len(distinct)}"
        )
    return found
