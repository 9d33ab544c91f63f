"""`summary.md` of a report with an accuracy budget."""

from dataclasses import replace

import pytest

from prox24_export.report.content import verdict
from prox24_export.report.markdown import render
from tests.report.example import build, full, only_dense
from tests.report.markdown_examples import huge


def section(text: str) -> str:
    """The part on the budget, its heading included; empty where there is none."""
    _, heading, after = text.partition("\n## Accuracy budget\n")
    return heading + after.partition("\n## ")[0]


def test_a_budget_has_its_verdict_the_dense_layers_and_the_curve_of_the_chosen_order() -> None:
    found = section(render(full()))
    rows = [line for line in found.splitlines() if line.startswith("|")][2:]
    assert "1 layer (65,536 weights) left dense, the others solved again, by 219 samples." in found
    assert "Left dense to keep the budget:\n\n- `/encoder/layers.1/k_proj/MatMul`\n" in found
    assert [row.split("|")[1] for row in rows] == ["0", "2", "3", "5", "1"]
    assert rows[1].startswith("|2|131,072|top-1 0.52 ± 0.1 points|0.5 points|misses it|loss gained where dense")
    assert rows[-1] == "|1|65,536|top-1 0.38 ± 0.1 points|0.5 points|keeps it|the first of these (solved again)|"
    assert "loss where pruned alone" not in found  # another order
    assert section(render(build())) == ""


@pytest.mark.parametrize("count", [1, 3, 20, 1000])
@pytest.mark.parametrize("letters", ["*名", "\U0001f600", "`", "|", "x", "_"])
def test_the_budget_takes_at_most_two_thousand_bytes(count: int, letters: str) -> None:
    found = section(render(build(budget=huge(letters * 500, count))))
    assert "weights) left dense" in found
    assert len(found.encode()) <= 2_000


def test_a_usual_budget_leaves_out_rows_and_not_the_verdict() -> None:
    found = full().budget
    assert found is not None
    names = tuple(f"/model/layers.{i}/mlp/down_proj" for i in range(200))
    text = section(render(build(budget=replace(found, dense=names))))
    assert text.count("- `/model/layers.") > 5
    assert "more layers left out; report.json has them all." in text
    assert len(text.encode()) <= 2_000


def test_only_dense_is_not_called_nothing_eligible() -> None:
    text = render(only_dense())
    said = "**Only the dense model keeps the limit: none of 12 linear layers is 2:4 sparse"
    assert text.startswith(said)
    assert "eligible" not in text.splitlines()[0]
    assert "Only the dense model keeps the limit, by 219 samples." in section(text)
    assert "|left dense to keep the accuracy budget|10|" in text


def test_the_first_line_counts_what_is_left_dense_for_the_budget() -> None:
    assert "; 9 of 10 prunable layers are 2:4 sparse, 1 left dense to keep the budget; " in verdict(full())
    assert "budget" not in verdict(build())
