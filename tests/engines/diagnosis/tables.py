"""Diagnoses as a table, for the golden files, which people read."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from prox24_export.results.engine import LayerDiagnosis

WIDTH = 100
STATES = {True: "yes", False: "no", None: "?"}


def format_table(diagnoses: Sequence[LayerDiagnosis]) -> str:
    """Writes every layer with its three states and what is missing, at most 100 columns wide."""
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
            _explain(diagnosis),
        )
    text = StringIO()
    console = Console(file=text, width=WIDTH, highlight=False, markup=False, emoji=False, color_system=None)
    console.print(grid)
    console.print(_count_states(diagnoses))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _explain(diagnosis: LayerDiagnosis) -> str:
    reason = diagnosis.disagreement or diagnosis.reason
    return f"{reason} → {diagnosis.remedy}" if diagnosis.remedy else reason


def _count_states(diagnoses: Sequence[LayerDiagnosis]) -> str:
    states = [(item.pattern, item.eligible, item.chosen) for item in diagnoses]
    counts = [sum(state[index] is True for state in states) for index in range(3)]
    unknown = sum(chosen is None for _, _, chosen in states)
    tail = f", {unknown} unknown" if unknown else ""
    return f"{len(states)} layers: {counts[0]} are 2:4, {counts[1]} eligible, {counts[2]} run a sparse tactic{tail}"
