import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prox24_export.passes import sparsify
from prox24_export.passes.calibrate.moments import Moments, Observation
from prox24_export.passes.sparsify import SolvedLayer, Sparsify, find_best_blend
from prox24_export.solver.pattern import is_two_four
from prox24_export.solver.quadratic import Quadratic
from tests.solver.problems import correlated, weights

K, N = 16, 8


def solved_by(settings: Sparsify) -> Callable[..., dict[str, SolvedLayer]]:
    """The pass on copies of the observations, which it consumes; layers that share moments still do."""

    def call(weights: dict[str, Tensor], observations: dict[str, Observation], tick: Callable[[], None]) -> Any:
        solved = settings.call(weights=weights, observations=copy.deepcopy(observations), tick=tick)
        return {layer.name: layer for layer in solved}

    return call


def moments(dense: Tensor, pruned: Tensor) -> Moments:
    return Moments(pruned.T @ pruned, dense.T @ pruned, dense.square().sum(0), len(dense))


def streams(seed: int, drift: float = 0.3, tokens: int = 200) -> tuple[Tensor, Tensor]:
    dense = correlated(tokens, K, seed)
    return dense, dense + drift * correlated(tokens, K, seed + 50)


def observation(*, residual: bool = False) -> tuple[Observation, dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """Both parts, and the activations and branch they were summed over."""
    parts = {}
    for part, seed in (("fit", 1), ("choice", 2)):
        dense, pruned = streams(seed)
        branch = (pruned @ weights(N, K, 7).double().T) * (0.3 if residual else 0.0)
        parts[part] = (dense, pruned, branch)
    sums = {part: branch.T @ pruned for part, (_, pruned, branch) in parts.items()} if residual else {}
    fit, choice = (moments(*parts[part][:2]) for part in ("fit", "choice"))
    return Observation(fit, choice, sums), parts


@pytest.mark.parametrize("residual", [False, True])
def test_the_blend_is_the_best_of_all_on_held_back_tokens(residual: bool) -> None:
    weight = weights(N, K)
    seen, parts = observation(residual=residual)
    quadratic = Quadratic.of(seen.fit.gram, seen.fit.cross, 0.5)
    correction = quadratic.correction(weight, seen.residuals.get("fit"))
    assert correction is not None
    dense, pruned, branch = parts["choice"]

    def held_back_error(blend: float) -> float:
        target = weight.double() + blend * correction
        return float((pruned @ target.T - dense @ weight.double().T - branch).square().sum())

    blends = np.linspace(0, 1, 1001)
    best = blends[np.argmin([held_back_error(blend) for blend in blends])]
    assert find_best_blend(weight, seen, quadratic) == pytest.approx(best, abs=1e-3)


def test_equal_streams_ask_for_no_blend() -> None:
    dense, _ = streams(1)
    same = Moments(gram := dense.T @ dense, gram, dense.square().sum(0), len(dense))
    seen = Observation(same, same)
    assert find_best_blend(weights(N, K), seen, Quadratic.of(gram, gram, 0.01)) == 0.0


def test_a_layer_is_solved_on_fit_and_choice_together() -> None:
    seen, _ = observation()
    assert seen.choice is not None
    settings = Sparsify(blend=1.0, damping=0.01)
    both = solved_by(settings)({"a": weights(N, K)}, {"a": seen}, lambda: None)["a"]
    fit = copy.deepcopy(seen.fit)
    fit.add(seen.choice)
    whole = Observation(fit, None)
    again = solved_by(settings)({"a": weights(N, K)}, {"a": whole}, lambda: None)["a"]
    assert torch.equal(both.solution.weight, again.solution.weight)


def test_without_held_back_tokens_the_usual_blend_is_taken() -> None:
    seen, _ = observation()
    solved = solved_by(Sparsify())({"a": weights(N, K)}, {"a": dataclasses.replace(seen, choice=None)}, lambda: None)
    assert solved["a"].blend == sparsify.USUAL_BLEND


def test_layers_that_read_the_same_value_share_one_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    of = Quadratic.of

    def counted(*arguments: Any) -> Quadratic:
        made.append(arguments)
        return of(*arguments)

    monkeypatch.setattr(Quadratic, "of", counted)
    seen, _ = observation()
    layers = {name: weights(N, K, seed) for seed, name in enumerate("qkv")}
    observations = {name: dataclasses.replace(seen) for name in layers}  # objects of their own, moments shared
    ticks: list[None] = []
    solved = solved_by(Sparsify())(layers, observations, lambda: ticks.append(None))
    assert len(made) == 2  # one for the fit part's blend, one for all tokens
    assert len(ticks) == len(solved) == 3


@pytest.mark.parametrize("method", ["prox", "prox-gradient", "sparsegpt", "wanda", "magnitude"])
def test_every_method_is_two_four_and_only_the_prox_methods_blend(method: str) -> None:
    seen, _ = observation()
    solved = solved_by(Sparsify(method=method))({"a": weights(N, K)}, {"a": seen}, lambda: None)["a"]  # type: ignore[arg-type]
    assert is_two_four(solved.solution.weight)
    assert (solved.blend > 0) == method.startswith("prox")


def test_wanda_reads_the_dense_stream_and_sparsegpt_the_pruned_one() -> None:
    seen, _ = observation()
    assert seen.choice is not None
    whole = copy.deepcopy(seen.fit)
    whole.add(seen.choice)
    other_dense = dataclasses.replace(seen.fit, dense=seen.fit.dense.flip(0))
    other_pruned = dataclasses.replace(seen.fit, gram=torch.diag(whole.gram.diagonal().flip(0)))

    def mask(method: str, fit: Moments) -> Tensor:
        changed = Observation(fit, None)
        result = solved_by(Sparsify(method=method))({"a": weights(N, K)}, {"a": changed}, lambda: None)  # type: ignore[arg-type]
        return result["a"].solution.mask

    assert not torch.equal(mask("wanda", seen.fit), mask("wanda", other_dense))
    assert torch.equal(mask("wanda", seen.fit), mask("wanda", other_pruned))
    assert torch.equal(mask("sparsegpt", seen.fit), mask("sparsegpt", other_dense))
    assert not torch.equal(mask("sparsegpt", seen.fit), mask("sparsegpt", other_pruned))
