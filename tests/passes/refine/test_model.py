"""Refinement: what it minimises, what it leaves alone, when it is refused, and that it can be interrupted."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.refine.batches import Samples
from prox24_export.passes.refine.loss import OutputLoss, measure_spread
from prox24_export.passes.refine.memory import measure_kept_for_gradient
from prox24_export.passes.refine.model import RefineModel
from prox24_export.passes.refine.objective import Objective
from prox24_export.passes.refine.segment_streams import SegmentStreams
from prox24_export.passes.refine.segments import add_outputs, find_cuts, find_segments
from prox24_export.passes.refine.state import Epoch, Mode, Refined, RefineProgress
from prox24_export.solver.pattern import is_two_four

AUTO = torch.export.Dim.AUTO
WIDTH, CLASSES, BLOCKS = 16, 8, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(torch.tanh(self.up(self.norm(x))))
        return result


class Residual(nn.Module):
    """A stem, like blocks, a head: the shape of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        result: Tensor = 3 * self.head(x)
        return result


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(x))
        return logits


def program_of(module: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        exported = torch.export.export(module.eval(), (sample,), dynamic_shapes=({0: AUTO},))
        functional: torch.export.ExportedProgram = exported.run_decompositions({})
        return functional


def halved(weight: Tensor) -> Tensor:
    """True for the two largest of every four along the last axis."""
    groups = weight.abs().reshape(*weight.shape[:-1], -1, 4)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter(-1, groups.topk(2, dim=-1).indices, value=True).reshape(weight.shape)


def inputs(count: int, seed: int, scale: float = 1.0) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn((1, 4), generator=generator),) for _ in range(count)]


class Case:
    """A dense network, and the same pruned by magnitude."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        module = Residual().to(dtype)
        self.module = make_flat_module(program_of(module, torch.zeros(2, 4, dtype=dtype))).module
        stored = dict(self.module.named_parameters())
        pruned = [name for name, weight in stored.items() if weight.ndim == 2 and weight.shape[1] % 4 == 0]
        self.masks = {name: halved(stored[name]) for name in pruned}
        self.weights = {name: stored[name].detach() * self.masks[name] for name in pruned}

    def refined(self, settings: RefineModel, choice: Sequence[tuple[Tensor]] | None = None, **options: Any) -> Refined:
        held = inputs(32, 2) if choice is None else choice
        return settings.call(
            dense=self.module, weights=self.weights, masks=self.masks, fit=inputs(96, 1), choice=held, **options
        )


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_a_flat_module_computes_what_the_program_does() -> None:
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(5, 4)
    flat = make_flat_module(program_of(module, torch.zeros(2, 4)))
    torch.testing.assert_close(flat.module(x), (module(x),))
    assert set(flat.parameters) == {name for name, _ in module.named_parameters()}


def test_tied_parameters_stay_one() -> None:
    flat = make_flat_module(program_of(Tied(), torch.zeros(2, 3, dtype=torch.int64)))
    assert len(list(flat.module.parameters())) == 1
    name = flat.parameters["embed.weight"]
    zeros = {name: torch.zeros(12, 8)}
    (logits,) = functional_call(flat.module, zeros, (torch.ones(2, 3, dtype=torch.int64),))
    assert not logits.any()


def test_the_objective_is_the_output_and_ten_times_the_cuts(case: Case) -> None:
    at = find_cuts(case.module, case.weights)
    module = add_outputs(case.module, at)
    pair = (torch.cat([feeds[0] for feeds in inputs(8, 3)]),)
    objective = Objective(module).fitted([(pair, pair)], 1)
    dense, sparse = module(*pair), functional_call(module, case.weights, pair)
    relative = [((s - d) ** 2).mean() / measure_spread(d) for s, d in zip(sparse[1:], dense[1:], strict=True)]
    output = objective.outputs[0].of(sparse[0], dense[0], 8)
    wanted = output.mean() + 10 * torch.stack(relative).mean()
    torch.testing.assert_close(objective.of(case.weights, (pair, pair)).mean(), wanted)


def test_the_agreement_is_the_share_of_equal_arg_max_of_outputs_with_classes(case: Case) -> None:
    pair = (torch.cat([feeds[0] for feeds in inputs(64, 3)]),)
    objective = Objective(case.module).fitted([(pair, pair)], 1)
    dense, sparse = case.module(*pair)[0], functional_call(case.module, case.weights, pair)[0]
    halves = [((half,), (half,)) for half in (pair[0][:40], pair[0][40:])]
    wanted = float((dense.argmax(1) == sparse.argmax(1)).float().mean())
    assert 0 < wanted < 1
    assert objective.measure_agreement(case.weights, halves) == pytest.approx(wanted)
    assert objective.measure_agreement({}, halves) == 1.0
    unknown = replace(objective, outputs=(OutputLoss("mse"),))
    assert unknown.measure_agreement(case.weights, halves) is None


def test_where_the_arg_max_agrees_no_more_steps_are_taken_than_planned(case: Case) -> None:
    steps = {}
    for scale, thorough in ((1.0, False), (0.02, False), (0.02, True)):  # scale of the error
        stored = dict(case.module.named_parameters())
        weights = {name: torch.lerp(stored[name].detach(), weight, scale) for name, weight in case.weights.items()}
        everything = {name: torch.ones_like(mask) for name, mask in case.masks.items()}
        result = RefineModel(thorough=thorough, mode="model").call(
            dense=case.module, weights=weights, masks=everything, fit=inputs(96, 1), choice=inputs(32, 2)
        )
        steps[scale, thorough] = len(result.parts[0].curve) - 1 + result.parts[0].taken_back
    assert steps[0.02, False] == 20
    assert min(steps[1.0, False], steps[0.02, True]) > 20


@pytest.mark.parametrize("mode", ["model", "segments"])
def test_refinement_helps_and_keeps_the_pattern(case: Case, mode: Any) -> None:
    seen: list[tuple[float, Epoch]] = []
    result = case.refined(RefineModel(mode=mode, epochs=6), tick=lambda *entry: seen.append(entry))
    assert result.kept
    assert result.after < 0.7 * result.before
    assert result.mode == mode
    assert set(result.weights) == set(case.weights)
    for name, weight in result.weights.items():
        assert not torch.equal(weight, case.weights[name])
        pruned = weight[~case.masks[name]]
        assert not pruned.any()
        assert not pruned.signbit().any()
    assert seen[-1][0] == 1.0
    assert len(seen) == 7 * len(result.parts)


@pytest.mark.parametrize("mode", ["model", "segments"])
def test_held_back_samples_judge_before_they_are_learnt_from(case: Case, mode: Any) -> None:
    result = case.refined(RefineModel(mode=mode, epochs=6))
    module = add_outputs(case.module, find_cuts(case.module, case.weights))
    objective = Objective(module).fitted([(batch, batch) for batch in Samples(inputs(96, 1), 16).in_order()], 1)
    held = objective.held(lambda: [(batch, batch) for batch in Samples(inputs(32, 2), 16).in_order()])
    assert float(held(case.weights).mean()) == pytest.approx(result.before, rel=1e-5)
    now = float(held(result.weights).mean())
    if mode == "segments":  # whose samples have to judge the whole network
        assert now == pytest.approx(result.after, rel=1e-5)
    else:
        assert now < (1 - 1e-5) * result.after


def test_the_dense_network_is_left_as_it_is(case: Case) -> None:
    before = {name: value.clone() for name, value in case.module.state_dict().items()}
    case.refined(RefineModel(epochs=2, which="all"))
    assert all(torch.equal(value, before[name]) for name, value in case.module.state_dict().items())


def test_which_says_what_else_moves(case: Case) -> None:
    stored = dict(case.module.named_parameters())
    vectors = {name for name, value in stored.items() if value.ndim == 1}
    with_bias = case.refined(RefineModel(epochs=3, which="weights+bias"))
    assert set(with_bias.weights) == set(case.weights) | vectors
    assert set(case.refined(RefineModel(epochs=3, which="all")).weights) == set(stored)
    assert not torch.equal(with_bias.weights[min(vectors)], stored[min(vectors)])


@pytest.mark.parametrize("mode", ["model", "segments"])
def test_the_same_seed_gives_the_same_bytes(case: Case, mode: Any) -> None:
    runs = [case.refined(RefineModel(mode=mode, epochs=3, seed=seed)) for seed in (4, 4, 5)]
    assert all(torch.equal(weight, runs[1].weights[name]) for name, weight in runs[0].weights.items())
    assert not all(torch.equal(weight, runs[2].weights[name]) for name, weight in runs[0].weights.items())


@pytest.mark.parametrize(("mode", "place"), [("model", "epoch"), ("model", "all samples"), ("segments", "epoch")])
def test_an_interrupted_run_goes_on_to_the_same_bytes(case: Case, mode: Any, place: str, tmp_path: Path) -> None:
    whole, file = case.refined(settings := RefineModel(mode=mode, epochs=3)), tmp_path / "state"

    def interrupt(progress: RefineProgress) -> None:
        state = progress.state
        if state is None or len(progress.parts) < (mode == "segments") or len(state.curve) < 2:
            return
        if state.finishing is not None if place == "all samples" else len(state.losses) == 2:
            progress.save(file)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.refined(settings, saved=interrupt)
    resumed = case.refined(settings, progress=RefineProgress.load(file))
    assert all(torch.equal(weight, resumed.weights[name]) for name, weight in whole.weights.items())
    assert resumed.after == whole.after
    assert [len(part.curve) for part in resumed.parts] == [4] * len(whole.parts)
    case.refined(settings, progress=(finished := RefineProgress()))
    again = case.refined(settings, progress=finished, saved=lambda _: pytest.fail("nothing was left to do"))
    assert all(torch.equal(weight, again.weights[name]) for name, weight in whole.weights.items())


def test_a_surviving_weight_that_is_zero_may_move(case: Case) -> None:
    name = min(case.weights)
    weights = {**case.weights, name: case.weights[name].clone()}
    place = tuple(case.masks[name].nonzero()[0].tolist())
    weights[name][place] = 0.0
    result = RefineModel(epochs=3).call(
        dense=case.module, weights=weights, masks=case.masks, fit=inputs(96, 1), choice=inputs(32, 2)
    )
    assert result.kept
    assert float(result.weights[name][place]) != 0


def list_groups(case: Case) -> dict[str, Tensor]:
    """The groups of all weights, which lie along their last axes."""
    return {name: torch.arange(weight.numel()).reshape(-1, 4) for name, weight in case.weights.items()}


def test_masks_move_where_their_groups_are_given_and_the_tuning_goes_on_from_there(case: Case) -> None:
    seen: list[tuple[float, Epoch]] = []
    groups = list_groups(case)
    result = case.refined(RefineModel(epochs=6), groups=groups, tick=lambda *entry: seen.append(entry))
    assert result.kept
    assert result.mode == "model"
    assert all(is_two_four(weight) for weight in result.weights.values())
    assert any(not torch.equal(weight != 0, case.masks[name]) for name, weight in result.weights.items())
    assert result.before == pytest.approx(result.parts[0].curve[0].held)
    assert len(result.parts[0].curve) + result.parts[0].taken_back == 13
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert 0.5 in shares
    assert shares[-1] == 1.0


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_that_is_interrupted_does_not_move_its_masks_again(case: Case, moved: bool, tmp_path: Path) -> None:
    settings, groups, file = RefineModel(epochs=3), list_groups(case), tmp_path / "state"
    whole = case.refined(settings, groups=groups)

    def interrupt(progress: RefineProgress) -> None:
        progress.save(file)
        if (progress.moved is not None) == moved:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.refined(settings, groups=groups, saved=interrupt)
    seen: list[float] = []
    read = RefineProgress.load(file)
    resumed = case.refined(settings, groups=groups, progress=read, tick=lambda share, _: seen.append(share))
    assert (min(seen) == 0.5) == moved
    assert all(torch.equal(weight, resumed.weights[name]) for name, weight in whole.weights.items())


def test_masks_stay_in_segments(case: Case) -> None:
    result = case.refined(RefineModel(mode="segments", epochs=2), groups=list_groups(case))
    assert all(not weight[~case.masks[name]].any() for name, weight in result.weights.items())


def test_steps_that_harm_are_taken_back_and_what_does_not_help_is_thrown_away(case: Case) -> None:
    reckless, timid = (case.refined(RefineModel(epochs=3, rate=rate)) for rate in (300.0, 1e-12))
    for refused in (reckless, timid):
        assert not refused.kept
        assert refused.after == refused.before
        assert all(torch.equal(weight, case.weights[name]) for name, weight in refused.weights.items())
    assert [(part.taken_back, len(part.curve)) for part in (*reckless.parts, *timid.parts)] == [(3, 1), (0, 4)]


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_held_back_samples_nothing_is_kept(case: Case, count: int) -> None:
    assert not case.refined(RefineModel(epochs=2), choice=inputs(count, 2)).kept


@pytest.mark.parametrize("mode", ["model", "segments"])
def test_a_gain_that_solving_on_all_samples_would_bring_is_not_enough(
    mode: Mode, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, float]] = []

    def expect(unseen: Tensor, seen: Tensor, more: float) -> float:
        asked.append((len(unseen), len(seen), more))
        return 1e6 if len(seen) else 0.0

    for module in ("part", "model"):
        monkeypatch.setattr(f"prox24_export.passes.refine.{module}.find_least_gain", expect)
    assert not case.refined(RefineModel(epochs=3, mode=mode)).kept
    assert asked[-1] == (32, 32, 128 / 96)


def test_a_budget_that_is_spent_ends_the_run(case: Case) -> None:
    result = case.refined(RefineModel(minutes=1e-9))
    assert len(result.parts[0].curve) < 3


def test_narrow_weights_have_float32_masters() -> None:
    case = Case(torch.bfloat16)
    fit = [(x.bfloat16(),) for (x,) in inputs(64, 1)]
    held = [(x.bfloat16(),) for (x,) in inputs(16, 2)]
    result = RefineModel(epochs=4).call(dense=case.module, weights=case.weights, masks=case.masks, fit=fit, choice=held)
    assert result.kept
    assert {weight.dtype for weight in result.weights.values()} == {torch.float32}


def test_ones_own_measure_decides(case: Case) -> None:
    def absolute(sparse: tuple[Tensor, ...], dense: tuple[Tensor, ...]) -> Tensor:
        return (sparse[0] - dense[0]).abs().mean()

    own = case.refined(RefineModel(epochs=3, custom=absolute))
    assert own.kept
    detected = case.refined(RefineModel(epochs=3))
    assert not all(torch.equal(weight, detected.weights[name]) for name, weight in own.weights.items())


def test_wrong_weights_and_masks_are_refused(case: Case) -> None:
    name = min(case.weights)
    with pytest.raises(ValueError, match=r"weights must be parameters of the module. Got nothing of shape \(2,\)"):
        RefineModel().call(dense=case.module, weights={"nothing": torch.ones(2)}, masks={}, fit=[], choice=[])
    with pytest.raises(ValueError, match=f"masks must have the shape of their weight. Got none such for {name}"):
        RefineModel().call(dense=case.module, weights={name: case.weights[name]}, masks={}, fit=[], choice=[])


def test_cuts_are_where_one_value_carries_everything(case: Case) -> None:
    found = find_cuts(case.module, case.weights)
    x = torch.randn(3, 4)
    values = add_outputs(case.module, found)(x)[1:]
    assert len(found) == 1 + BLOCKS
    assert all(value.shape == (3, WIDTH) for value in values)


def test_like_blocks_are_segments_and_together_the_network(case: Case) -> None:
    segments = find_segments(case.module, case.weights)
    assert len(segments) == BLOCKS
    assert sorted(name for segment in segments for name in segment.weights) == sorted(case.weights)
    x = torch.randn(3, 4)
    streams = SegmentStreams(case.module, segments, [(x,)], torch.device("cpu"))
    for place, segment in enumerate(segments[:-1]):
        streams.advance(place, segment, {name: case.weights[name] for name in segment.weights})
    ((dense, sparse),) = list(streams.pairs(segments[-1]))
    last = segments[-1]
    torch.testing.assert_close(last.module(*dense)[0], case.module(x)[0])
    got = functional_call(last.module, {name: case.weights[name] for name in last.weights}, sparse)
    torch.testing.assert_close(got[0], functional_call(case.module, case.weights, (x,))[0])


def test_a_segment_keeps_less_for_its_gradient_than_the_network(case: Case) -> None:
    x = torch.randn(64, 4)
    whole = measure_kept_for_gradient(Objective(case.module).fitted([((x,), (x,))], 1), case.weights, ((x,), (x,)))
    segment = find_segments(case.module, case.weights)[0]
    weights = {name: case.weights[name] for name in segment.weights}
    part = Objective(segment.module).fitted([((x,), (x,))], 0)
    assert 0 < measure_kept_for_gradient(part, weights, ((x,), (x,))) < whole
    assert case.refined(RefineModel(epochs=1)).mode == "model"
    assert case.refined(RefineModel(epochs=1, memory=0.0)).mode == "segments"
