"""Three states of every pruned layer in a TensorRT engine: 2:4, eligible, sparse tactic chosen; why one is missing."""

from collections.abc import Sequence
from io import StringIO

from prox24_export.engines.diagnosis import reasons
from prox24_export.engines.diagnosis.builder_log import SparsityLog
from prox24_export.engines.diagnosis.findings import NOTHING, Finding, belongs, find
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.layer_names import parts
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.results.engine import LayerDiagnosis

WIDTH = 100
STATES = {True: "yes", False: "no", None: "?"}


def diagnose(
    layers: Sequence[PrunedLayer],
    log: SparsityLog | None,
    engine_layers: Sequence[EngineLayer] | None,
    *,
    allowed: bool = True,
) -> tuple[tuple[LayerDiagnosis, ...], tuple[str, ...]]:
    """What became of every pruned layer, and what log and inspector disagree in beyond single layers.

    Where they disagree on a layer it is neither chosen nor not: the disagreement is told, not resolved.

    Args:
        layers: Every node that multiplies by a pruned weight.
        log: Of the build; None where none was captured.
        engine_layers: From the inspector; None where it was not asked.
        allowed: Whether the engine was built with SPARSE_WEIGHTS.
    """
    pruned = frozenset(layer.name for layer in layers)
    found = [find(layer.name, pruned, log or NOTHING, engine_layers or ()) for layer in layers]
    diagnoses = tuple(
        _diagnosis(layer, finding, log, allowed=allowed) for layer, finding in zip(layers, found, strict=True)
    )
    return diagnoses, tuple(_disagreements(pruned, log, engine_layers))


def _diagnosis(layer: PrunedLayer, finding: Finding, log: SparsityLog | None, *, allowed: bool) -> LayerDiagnosis:
    disagreement = _disagreement(finding)
    chosen = finding.inspected if finding.chosen is None else finding.chosen
    chosen = None if disagreement else chosen
    shown = next(iter((*finding.sparse_products, *finding.engine_layers)), None)
    reason, remedy = _reason(layer, finding, log, chosen, disagreement, allowed=allowed)
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


def _disagreement(finding: Finding) -> str:
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


def _reason(
    layer: PrunedLayer,
    finding: Finding,
    log: SparsityLog | None,
    chosen: bool | None,
    disagreement: str,
    *,
    allowed: bool,
) -> tuple[str, str]:
    """The surest reason for a state that is missing, and its remedy; empty where none is missing."""
    if disagreement:
        return "builder log and inspector contradict each other", "a profiler's kernel names decide (nsys)"
    if layer.is_two_four and finding.eligible and chosen:
        return "", ""
    build = None if chosen and allowed and layer.is_two_four else reasons.of_build(layer, allowed=allowed)
    is_refused = chosen is False or finding.eligible is False
    known = reasons.of_layer(layer, finding) if is_refused and not chosen else None
    untold = reasons.of_log(log) if finding.eligible is None and (known is None or chosen is None) else None
    return build or untold or known or reasons.unexplained(is_eligible=bool(finding.eligible), chosen=chosen)


def _disagreements(
    pruned: frozenset[str], log: SparsityLog | None, engine_layers: Sequence[EngineLayer] | None
) -> list[str]:
    """What no single layer shows: names that stand for none of them, and totals."""
    if log is None or log.chosen is None or engine_layers is None:
        return []
    sparse = [layer for layer in engine_layers if layer.is_sparse]
    found = [
        f"the builder log says that a sparse tactic was chosen for {name}, which is no pruned layer of the model"
        for name in log.chosen.names
        if not belongs(name, (), pruned, log)
    ]
    found += [
        f"the inspector shows the sparse tactic {layer.tactic} in {layer.name}, which is no pruned layer of the model"
        for layer in sparse
        if not belongs(layer.name, layer.onnx_nodes, pruned, log)
    ]
    distinct = {parts(layer.name) for layer in sparse}  # each optimisation profile has its own copy
    if log.chosen.count != len(distinct):
        found.append(
            f"the builder log counts {log.chosen.count} layers with sparse tactics, the inspector shows {len(distinct)}"
        )
    return found


def table(diagnoses: Sequence[LayerDiagnosis]) -> str:
    """Every layer with its three states and what is missing, at most 100 columns wide."""
    from rich.console import Console  # noqa: PLC0415 (only the table needs it)
    from rich.table import Table  # noqa: PLC0415

    grid = Table(box=None, pad_edge=False)
    grid.add_column("layer", overflow="fold", max_width=32)
    for title in ("2:4", "eligible", "chosen"):
        grid.add_column(title, no_wrap=True)
    grid.add_column("why not, and what to do", overflow="fold")
    for diagnosis in diagnoses:
        grid.add_row(
            diagnosis.name,
            STATES[diagnosis.pattern],
            STATES[diagnosis.eligible],
            STATES[diagnosis.chosen],
            _explanation(diagnosis),
        )
    text = StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, markup=False, emoji=False, color_system=None)
    console.print(grid)
    console.print(_totals(diagnoses))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _explanation(diagnosis: LayerDiagnosis) -> str:
    reason = diagnosis.disagreement or diagnosis.reason
    return f"{reason} → {diagnosis.remedy}" if diagnosis.remedy else reason


def _totals(diagnoses: Sequence[LayerDiagnosis]) -> str:
    states = [(item.pattern, item.eligible, item.chosen) for item in diagnoses]
    counts = [sum(state[index] is True for state in states) for index in range(3)]
    unknown = sum(chosen is None for _, _, chosen in states)
    tail = f", {unknown} unknown" if unknown else ""
    return f"{len(states)} layers: {counts[0]} are 2:4, {counts[1]} eligible, {counts[2]} run a sparse tactic{tail}"
