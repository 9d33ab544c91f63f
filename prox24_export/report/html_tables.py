"""Tables of the page that grow with the model: its layers, and the layers of the engine."""

from collections.abc import Sequence
from typing import NamedTuple

from prox24_export.report import budget_tables, content
from prox24_export.report.html_answers import diagnoses, engine_state
from prox24_export.report.tables import Table, number
from prox24_export.results.engine import EngineReport, LayerDiagnosis
from prox24_export.results.report import LayerReport, Report

MOST_TIMES = 40
OF_ACTIVATIONS = "both operands are activations"  # as the front ends say it


class Row(NamedTuple):
    """One layer. `rank` sorts by what the engine made of it; `budget` says why the search left it sparse or dense."""

    layer: LayerReport
    shape: str
    parameters: str
    error: str
    engine: str
    rank: int | None
    words: str
    details: str
    budget: str
    is_kept_dense: bool


def split_products(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Takes products of two activations, which have no weight to prune, out of the rows; also returns their names."""
    names = [row.layer.name for row in rows if _is_of_activations(row.layer)]
    return [row for row in rows if not _is_of_activations(row.layer)], names


def _is_of_activations(layer: LayerReport) -> bool:
    return layer.weight is None and layer.state == "dense" and OF_ACTIVATIONS in layer.reason


def layers(report: Report) -> list[Row]:
    """The rows of all layers, in network order."""
    told, decided = diagnoses(report), budget_tables.decisions(report.budget)
    dense = set(report.budget.dense) if report.budget else set()
    is_torch = report.engine is not None and report.engine.engine == "torch"
    rows = []
    for layer in report.layers:
        shape, parameters, error = content.figures(layer)
        diagnosis = told.get(layer.name)
        words = "; ".join(part for part in (layer.reason, *layer.notes, *_missing(diagnosis)) if part)
        state, rank = engine_state(diagnosis, is_torch=is_torch)
        why, solved = f"Budget: {decided[layer.name].reason}" if layer.name in decided else "", details(layer)
        if layer.state == "dense" and error:  # it was solved, and left dense to keep a limit
            solved, error = f"Pruned, its error was {error}: {solved}", ""
        rows.append(Row(layer, shape, parameters, error, state, rank, words, solved, why, layer.name in dense))
    return rows


def details(layer: LayerReport) -> str:
    """How a sparse layer was solved, in one line."""
    known = {"blend": layer.blend, "damping": layer.damping, "iterations": layer.iterations, "seconds": layer.seconds}
    figures = ", ".join(f"{name} {number(value)}" for name, value in known.items() if value is not None)
    return ": ".join(part for part in (figures, layer.status) if part)


def layer_times(engine: EngineReport | None) -> Table:
    """The forty engine layers that save the most time, the most first."""
    found = sorted(
        engine.layer_times if engine else (), key=lambda layer: (layer.sparse_ms or 0) - (layer.dense_ms or 0)
    )
    rows: list[tuple[str, ...]] = [
        (layer.name, *("" if time is None else number(time) for time in (layer.dense_ms, layer.sparse_ms)))
        for layer in found[:MOST_TIMES]
    ]
    rest = f", {MOST_TIMES} of {len(found):,}" if len(found) > MOST_TIMES else ""
    return Table(f"Engine layers by time saved{rest}", ("Engine layer", "Dense, ms", "Sparse, ms"), rows)


def _missing(diagnosis: LayerDiagnosis | None) -> Sequence[str]:
    """Why the engine does not run the layer sparse, what to do about it, and which sources contradict each other."""
    return () if diagnosis is None else (diagnosis.reason, diagnosis.remedy, diagnosis.disagreement)
