"""The search for the fewest layers to leave dense, against exhaustive search."""

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from prox24_export.budget.search import ORDERS, RELATIVE_ERROR, LimitedFigure
from prox24_export.passes.graph.arrays import Array
from prox24_export.results.budget import CONFIRMING, UnitSensitivity
from tests.budget.additive import LAYERS, LIMIT, Additive, additive


def fewest(search: Additive) -> int:
    """By trying all subsets."""
    sizes = [
        sum(unit.parameters for unit in subset)
        for count in range(len(search.found) + 1)
        for subset in itertools.combinations(search.found, count)
        if sum(search.harm.values()) - sum(search.harm[unit.name] for unit in subset) <= LIMIT + 1e-6
    ]
    return min(sizes)


@settings(max_examples=60)
@given(LAYERS)
def test_where_harm_adds_up_the_limit_is_kept_and_no_single_layer_is_dense_for_nothing(layers: Any) -> None:
    harm, sizes = zip(*layers, strict=True)
    search = additive(harm, sizes, [0.0] * len(harm))
    choice = search.run()
    left = sum(harm) - sum(search.harm[unit.name] for unit in choice.dense)
    assert left <= LIMIT + 1e-6
    assert fewest(search) <= choice.parameters
    for unit in choice.dense:
        assert left + search.harm[unit.name] > LIMIT - 1e-6
    assert choice.parameters <= 2 * fewest(search) + max(4 * size for size in sizes)  # greedy: off by one layer at most


@settings(max_examples=60)
@given(LAYERS, st.floats(0, 1))
def test_solving_again_never_leaves_more_dense(layers: Any, helped: float) -> None:
    harm, sizes = zip(*layers, strict=True)
    plain = additive(harm, sizes, [0.0] * len(harm)).run()
    asked = []

    def again(dense: frozenset[str]) -> dict[str, Array]:
        asked.append(dense)
        return {}

    choice = additive(harm, sizes, [0.0] * len(harm), solve_again=again, helped=helped).run()
    assert choice.parameters <= plain.parameters
    assert len(asked) == len(set(asked))


@settings(max_examples=60)
@given(LAYERS, st.floats(0.5, 3))
def test_where_a_choice_does_not_hold_on_other_samples_more_layers_are_left_dense_until_it_does(
    layers: Any, truth: float
) -> None:
    harm, sizes = zip(*layers, strict=True)
    plain = additive(harm, sizes, [0.0] * len(harm)).run()
    search = additive(harm, sizes, [0.0] * len(harm))

    def confirm(model: Any) -> list[LimitedFigure]:
        assert callable(model)
        return [LimitedFigure("m", truth * search.chosen, 0.0, 0.0, LIMIT)]

    search.confirm = confirm
    choice = search.run()
    names = [unit.name for unit in choice.dense]
    assert truth * (sum(harm) - sum(search.harm[name] for name in names)) <= LIMIT + 1e-6
    assert names[: len(plain.dense)] == [unit.name for unit in plain.dense]
    confirmed = [point for point in search.curve if point.order == CONFIRMING]
    assert not any(point.fits for point in confirmed[:-1])
    added = names[len(plain.dense) :]
    assert added == sorted(added, key=lambda name: -search.harm[name] / (4 * sizes[int(name.removeprefix("layer"))]))
    assert all(search.reasons[name] == "dense because the choice did not hold on other samples" for name in added)


def test_an_order_that_knows_no_harm_leaves_more_dense() -> None:
    harm, sizes = [0.1, 0.1, 3.0, 0.1], [64, 64, 4, 64]
    errors = [0.4, 0.3, 0.1, 0.2]
    assert additive(harm, sizes, errors).run().parameters == 16
    compared = additive(harm, sizes, errors, orders=RELATIVE_ERROR)
    assert compared.run().parameters == 16  # tried sparse again, one by one
    spread = additive([0.9, 0.9, 0.9, 0.9], [64, 64, 4, 4], [0.4, 0.3, 0.2, 0.1], orders=RELATIVE_ERROR)
    assert spread.run().parameters > additive([0.9, 0.9, 0.9, 0.9], [64, 64, 4, 4], [0.0] * 4).run().parameters


def test_errors_count_towards_the_change_and_what_does_not_change_always_fits() -> None:
    figure = LimitedFigure("m", 0.8, 0.15, 0.15, 0.9)
    assert not figure.fits(1.0)
    assert figure.fits(0.5)
    assert LimitedFigure("m", 0.0, 0.0, 0.0, 0.0).fits(3.0)
    assert not LimitedFigure("m", float("nan"), 0.0, 0.0, 1.0).fits(1.0)
    assert not LimitedFigure("m", 0.0, float("inf"), float("inf"), 1.0).fits(1.0)


def test_the_error_of_a_count_asks_for_half_of_the_limit_at_most_and_the_estimates_own_for_all_of_it() -> None:
    assert LimitedFigure("m", 0.0, 0.1, 0.2, 1.0).margin(1.0) == 0.2
    assert LimitedFigure("m", 0.0, 0.1, 0.9, 1.0).margin(1.0) == 0.5
    assert LimitedFigure("m", 0.0, 0.8, 0.9, 1.0).margin(1.0) == 0.8
    assert LimitedFigure("m", 0.0, 0.1, 0.9, 1.0).margin(2.0) == 0.5


def test_every_order_ranks_by_the_figures_it_names() -> None:
    one = UnitSensitivity("a", ("a",), 0, 10, 0.5, 0.1, 2.0, 4.0)
    assert [order(one, 3.0) for order in ORDERS.values()] == [2.0, 0.1, 8.0, 0.4]
    assert RELATIVE_ERROR["relative error"](one, 3.0) == 0.1
