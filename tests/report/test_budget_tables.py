"""An accuracy budget on a page: one order's curve, what was chosen, and why each layer is sparse or dense."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from prox24_export.budget.search import ORDERS
from prox24_export.report import budget_tables, html, html_budget, html_charts
from prox24_export.results.budget import BudgetPoint, BudgetReport
from tests.budget.additive import LAYERS, additive
from tests.report.example import ALONE, GAIN, build, full, only_dense, point, with_budget
from tests.report.html_example import build as page_example
from tests.report.page import HOSTILE, Page


def example(**changes: Any) -> BudgetReport:
    found = full().budget
    assert found is not None
    return replace(found, **changes)


def not_needed() -> BudgetReport:
    curve = (replace(point("everything pruned", 0, 0.2), fits=True),)
    return example(curve=curve, dense=(), parameters=0, solved_again=False, verdict="not needed")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (example(), "1 layer (65,536 weights) left dense, the others solved again, by 219 samples"),
        (
            example(dense=("a", "b"), parameters=4_096, solved_again=False),
            "2 layers (4,096 weights) left dense, by 219 samples",
        ),
        (not_needed(), "every layer may be sparse, by 219 samples that are in no figure of the report"),
        (example(verdict="only dense"), "only the dense model keeps the limit, by 219 samples"),
    ],
)
def test_a_verdict_is_one_sentence(found: BudgetReport, said: str) -> None:
    assert budget_tables.verdict(found) == said


def test_the_order_is_the_one_whose_steps_led_to_the_choice() -> None:
    assert example().ending == point("the first of these", 1, 0.38, solved_again=True)
    assert budget_tables.order(example()) == GAIN
    other = point(f"{example().decisions[1].name} sparse again", 1, 0.2)
    assert budget_tables.order(example(curve=(*example().curve[:-1], other))) == ALONE


def test_where_nothing_keeps_the_limit_it_is_the_order_with_most_points() -> None:
    failed = tuple(replace(entry, fits=False) for entry in example().curve)
    more = replace(point(ALONE, 9, 0.9), fits=False)
    assert budget_tables.order(example(curve=failed)) == GAIN  # the first of two as long
    assert budget_tables.order(example(curve=(*failed, more))) == ALONE
    assert budget_tables.order(not_needed()) == budget_tables.order(example(curve=())) == ""


def test_the_table_is_one_order_and_ends_with_what_was_chosen() -> None:
    rows = budget_tables.steps_table(example()).rows
    assert [(row[0], row[4]) for row in rows] == [
        ("0", "misses it"),
        ("2", "misses it"),
        ("3", "keeps it"),
        ("5", "keeps it"),
        ("1", "keeps it"),
    ]
    assert {row[5] for row in rows[1:-1]} == {GAIN}
    assert len(budget_tables.variants_table(example()).rows) == len(example().curve)
    assert len(budget_tables.steps_table(not_needed()).rows) == 1
    assert not budget_tables.steps_table(None).rows


def test_a_change_has_the_unit_of_its_metric_and_its_error_where_one_is_known() -> None:
    points = (
        point(GAIN, 2, 0.25),
        point(GAIN, 3, -0.5, metric="perplexity", error=0.0),
        point(GAIN, 4, 1, metric="psnr"),
    )
    rows = budget_tables.variants_table(example(curve=points)).rows
    assert [row[2:4] for row in rows] == [
        ("top-1 0.25 ± 0.1 points", "0.5 points"),
        ("perplexity −0.5", "0.5"),
        ("psnr 1 ± 0.1 dB", "0.5 dB"),
    ]


@settings(max_examples=40)
@given(LAYERS)
def test_of_any_search_the_page_has_one_order_and_the_choice(layers: Any) -> None:
    harm, sizes = zip(*layers, strict=True)
    search = additive(harm, sizes, [0.0] * len(harm), solve_again=lambda _: {}, helped=0.9)
    choice = search.run()
    names = tuple(unit.name for unit in choice.dense)
    found = example(sensitivity=search.sensitivity, curve=tuple(search.curve), dense=names)
    order, path = budget_tables.order(found), budget_tables.order_points(found)
    assert order in {*ORDERS, ""}
    assert {entry.order for entry in path} <= {order, "everything pruned"}
    assert not path[0].layers
    drawn = html_budget.curve(found)
    assert drawn is not None
    if found.ending is not None:
        assert found.ending.parameters == choice.parameters
        assert drawn.chosen == (len(harm) - len(names), found.ending.value)
        assert any(row[0] == str(len(names)) and row[4] == "keeps it" for row in budget_tables.steps_table(found).rows)


def test_across_are_the_layers_that_stay_sparse_of_those_that_could() -> None:
    drawn = html_budget.curve(example())
    assert drawn is not None
    assert sorted(drawn.points) == [(5, 0.12), (7, 0.3), (8, 0.52), (10, 1.31)]
    assert (drawn.metric, drawn.unit, drawn.limit) == ("Change of top-1 for the worse", " points", 0.5)
    assert drawn.chosen == (9, 0.38)
    units = example().sensitivity.units
    shared = (replace(units[0], layers=("a", "b", "c")), *units[1:])
    moved = html_budget.curve(example(sensitivity=replace(example().sensitivity, units=shared)))
    assert moved is not None
    assert moved.chosen == (11, 0.38)


def test_the_choice_is_filled_where_it_lies_beside_the_line() -> None:
    drawn = html_charts.pruned_curve(html_budget.curve(example()))
    assert drawn is not None
    assert [mark.title for mark in drawn.marks if mark.kind == "sparse"] == ["9 layers pruned: 0.38 points"]
    assert len(drawn.marks) == 5
    assert len(drawn.lines[0].points.split()) == 4
    assert "0.12 points with 5, 1.31 points with 10 layers pruned; written: 9 layers" in drawn.description


def test_another_variant_with_as_many_layers_is_not_filled() -> None:
    curve = (*example().curve[:-1], point("the first of these", 2, 0.38, solved_again=True, parameters=1))
    drawn = html_charts.pruned_curve(html_budget.curve(example(curve=curve)))
    assert drawn is not None
    both = [(mark.kind, mark.title) for mark in drawn.marks if mark.title.startswith("8 layers")]
    assert both == [("sparse", "8 layers pruned: 0.38 points"), ("sparse invalid", "8 layers pruned: 0.52 points")]


def test_one_metric_is_drawn_and_only_what_is_a_number() -> None:
    def metric(entry: BudgetPoint) -> BudgetPoint:
        return replace(entry, metric="perplexity") if entry.layers == 5 else entry

    drawn = html_budget.curve(example(curve=tuple(map(metric, example().curve))))
    assert drawn is not None
    assert sorted(drawn.points) == [(7, 0.3), (8, 0.52), (10, 1.31)]
    broken = tuple(replace(entry, value=math.nan, limit=math.inf) for entry in example().curve)
    nothing = html_budget.curve(example(curve=broken))
    assert nothing is not None
    assert (list(nothing.points), nothing.limit, nothing.chosen) == ([], None, None)
    assert html_charts.pruned_curve(nothing) is None
    assert html_budget.curve(example(curve=())) is None


def test_few_layers_have_no_ticks_between_them() -> None:
    drawn = html_charts.pruned_curve(html_charts.PrunedCurve("m", "", ((3, 1.0), (5, 2.0))))
    assert drawn is not None
    assert [tick.label for tick in drawn.x_ticks] == ["3", "4", "5"]


def test_the_page_tells_the_search_and_each_decision() -> None:
    report = with_budget(page_example())
    text = html.render(report)
    page = Page(text).text
    first = page.partition("Sparse against dense, in detail")[0]
    assert "74 of 81 prunable layers are 2:4 sparse, 1 left dense to keep the budget; " in first
    assert "1 layer (65,536 weights) left dense, the others solved again, by 219 samples." in page
    for words in (
        f"Layers in the order of: {GAIN}.",
        "A variant keeps the limit where its change for the worse and 1 standard error together are within it; ",
        "the error of counting hits takes half of the limit at most.",
        "Left dense to keep the budget /encoder/layers.1/k_proj/MatMul Change of top-1 for the worse against",
        "0.12 points with 70, 1.31 points with 75 layers pruned; written: 74 layers, the filled point",
        "1 65,536 top-1 0.38 ± 0.1 points 0.5 points keeps it the first of these (solved again)",
        "Variants in the order of the search, 9",
        "Budget: not needed for the limit; loss 0.08",
        "Budget: needed for the limit; loss 0.08 pruned, 0.044 with it dense",
    ):
        assert words in page, words
    assert text.count("Budget: ") == 75  # every layer that could be sparse
    assert text.count('data-state="dense budget"') == 1
    assert '<option value="budget">left dense to keep the budget</option>' in text


def test_a_layer_left_dense_has_no_error_of_a_sparse_one() -> None:
    report = with_budget(page_example())
    before, after = html_charts.errors(page_example().layers), html_charts.errors(report.layers)
    assert before == after  # the same bars, and a gap where it is
    row = html.render(report).partition('data-state="dense budget"')[2].partition("</tr>")[0]
    assert '<td class="number" data-label="Error" data-value=""></td>' in row
    assert "Pruned, its error was 3.6 %: blend 1" in row


def test_a_budget_that_was_not_needed_has_no_picture() -> None:
    page = Page(html.render(replace(page_example(), budget=not_needed())))
    assert "Every layer may be sparse, by 219 samples that are in no figure of the report." in page.text
    assert "pruned-title" not in page.ids
    for absent in ("left dense to keep the budget", "Left dense to keep", "Layers in the order of"):
        assert absent not in page.text


def test_only_dense_is_the_headline() -> None:
    page = Page(html.render(only_dense())).text
    assert "Only the dense model keeps the limit: none of 12 linear layers is 2:4 sparse" in page
    assert "Nothing eligible" not in page
    assert "12 found 0 pruned to 2:4" in page
    assert page.count("left dense to keep the accuracy budget (10 layers, 655,360 weights)") == 10


def test_without_a_budget_the_page_is_silent_about_it() -> None:
    assert "udget" not in Page(html.render(page_example())).text


def test_many_names_are_counted() -> None:
    names = tuple(f"layer{index}" for index in range(25))
    page = Page(html.render(build(budget=example(dense=names)))).text
    assert "layer19 5 more, in the table of layers" in page.replace("\n", " ")
    assert "layer20" not in page


def test_names_in_a_budget_cannot_become_markup() -> None:
    found = example()
    units = tuple(replace(unit, name=HOSTILE, layers=(HOSTILE,)) for unit in found.sensitivity.units)
    hostile = replace(
        found,
        sensitivity=replace(found.sensitivity, units=units),
        curve=tuple(replace(entry, order=HOSTILE, metric=HOSTILE) for entry in found.curve),
        decisions=tuple(replace(entry, name=HOSTILE, reason=HOSTILE) for entry in found.decisions),
        dense=(HOSTILE,),
    )
    layers = (replace(full().layers[0], name=HOSTILE), *full().layers[1:])
    page = Page(html.render(replace(full(), layers=layers, budget=hostile)))
    assert page.tags.count("script") == 1
    assert page.text.count(HOSTILE) > 20
    assert f"Budget: {HOSTILE}" in page.text
