"""Refinement in the whole pipeline: what moves, what decides, and what is reported where it cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from prox24_export import Settings, export
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.refine.state import Refined
from prox24_export.results.mask import unpack_thumbnail
from prox24_export.results.report import RefinementReport, Report
from prox24_export.stages.prune import draw_masks
from prox24_export.stages.refine import measure_moved
from tests.command import in_process
from tests.graphs import is_two_four, model, normal, save

DEEP = """g (float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, w0) b = Add(a, c) r = Relu(b) d = MatMul(r, w1) t = Tanh(d) y = MatMul(t, w2) }"""
WEIGHTS = {
    "w0": normal(16, 32) / 4,
    "c": normal(32) / 4,
    "w1": normal(32, 32, seed=1) / 4,
    "w2": normal(32, 8, seed=2) / 4,
}


UNASKED = Settings(permute="no")
TUNED, LAYERWISE = Settings(refine="weights", permute="no"), Settings(refine="no", permute="no")


def network(folder: Path) -> Path:
    return save(model(DEEP, WEIGHTS), folder, "deep.onnx")


def samples(count: int, seed: int = 0) -> list[dict[str, Array]]:
    x = normal(count, 16, seed=seed) @ normal(16, 16, seed=9) / 4
    return [{"x": row[None]} for row in x]


def refined(report: Report) -> RefinementReport:
    assert report.refinement is not None
    return report.refinement


def stored(folder: Path) -> dict[str, Array]:
    tensors = onnx.load(folder / "model.onnx").graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}


def distance(folder: Path, dense: Path, feeds: list[dict[str, Array]]) -> float:
    """Mean squared difference of outputs about their mean over classes, which a softmax does not see."""
    x = {"x": np.concatenate([feed["x"] for feed in feeds])}
    ours, theirs = (OnnxGraph(path).runner()(x)[0] for path in (folder / "model.onnx", dense))
    apart = ours - theirs
    return float(np.square(apart - apart.mean(-1, keepdims=True)).mean())


def test_the_outputs_come_closer_and_only_surviving_weights_move(tmp_path: Path) -> None:
    path, data, held = network(tmp_path), samples(2000), samples(200, seed=5)
    plain = export(path, data, tmp_path / "plain", evaluation=held, settings=LAYERWISE)
    tuned = export(path, data, tmp_path / "tuned", evaluation=held, settings=TUNED)
    assert plain.refinement is None
    assert refined(tuned).kept
    before, after = refined(tuned).before, refined(tuned).after
    assert before is not None
    assert after is not None
    assert after < before
    assert distance(tmp_path / "tuned", path, held) < 0.9 * distance(tmp_path / "plain", path, held)
    for name, array in stored(tmp_path / "tuned").items():
        if name.startswith("w"):
            assert is_two_four(array.T)
            assert not np.array_equal(array, stored(tmp_path / "plain")[name])
        else:
            assert array.tobytes() == WEIGHTS[name].tobytes()


def test_the_same_command_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    path = network(tmp_path)
    reports = [export(path, samples(64), tmp_path / name, settings=TUNED) for name in ("a", "b")]
    assert refined(reports[0]).curve == refined(reports[1]).curve != ()
    assert reports[0].output.sha256 == reports[1].output.sha256


def test_masks_may_move_with_prox_model_and_the_report_tells_how_many(tmp_path: Path) -> None:
    settings = Settings(method="prox-model", refine="weights", permute="no")
    report = export(network(tmp_path), samples(400), tmp_path / "out", settings=settings)
    plain = export(network(tmp_path), samples(400), tmp_path / "plain", settings=TUNED)
    assert refined(report).kept
    assert len(refined(report).curve) > len(refined(plain).curve)
    assert all(is_two_four(array.T) for name, array in stored(tmp_path / "out").items() if name.startswith("w"))
    assert refined(report).masks_moved is not None
    assert refined(plain).masks_moved is None
    said = "of the surviving weights do not survive layer by layer"
    assert said in (tmp_path / "out" / "summary.md").read_text("utf-8")
    assert said not in (tmp_path / "plain" / "summary.md").read_text("utf-8")


def test_where_memory_lets_only_segments_be_tuned_the_report_says_what_was_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.passes.refine.model.SHARE_OF_MEMORY", 0.0)
    settings = Settings(method="prox-model", refine="weights", refine_target="views", permute="no", effort="fast")
    report = refined(export(network(tmp_path), samples(64), tmp_path / "out", settings=settings))
    assert report.mode == "segments"
    assert "at a time masks stayed as they were solved and views were no target" in report.reason


def test_the_share_of_masks_that_moved_is_of_the_surviving_weights() -> None:
    solved = {"a": torch.tensor([1.0, 2.0, 0.0, 0.0]), "b": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    tuned = {"a": torch.tensor([1.1, 0.0, 0.3, 0.0]), "b": torch.tensor([0.0, 1.0, 0.9, 0.0])}
    result = Refined(tuned, True, 1.0, 0.5, (), "model")
    assert measure_moved(result, solved) == 0.25
    assert measure_moved(replace(result, mode="segments"), solved) is None


def test_masks_are_drawn_of_the_weights_that_are_there(tmp_path: Path) -> None:
    graph = OnnxGraph(network(tmp_path))
    linears = FindLinears().call(graph=graph).linears
    array = WEIGHTS["w1"] * (WEIGHTS["w1"] > 0)
    ((name, drawn),) = draw_masks(linears, {"w1": array}).items()
    assert name in {linear.name for linear in linears if linear.weight == "w1"}
    assert np.array_equal(unpack_thumbnail(drawn), array.T != 0)


def test_biases_move_where_they_are_asked_to(tmp_path: Path) -> None:
    settings = Settings(refine="weights+bias")
    report = export(network(tmp_path), samples(2000), tmp_path / "out", settings=settings)
    assert refined(report).kept
    assert not np.array_equal(stored(tmp_path / "out")["c"], WEIGHTS["c"])


def test_a_model_that_is_not_differentiable_keeps_its_layer_wise_weights(tmp_path: Path) -> None:
    text = "g (float[N,16] x) => (float[M] y) { a = MatMul(x, w) y = Unique(a) }"
    path = save(model(text, {"w": normal(16, 8)}), tmp_path)
    plain = export(path, samples(64), tmp_path / "plain", settings=LAYERWISE)
    tuned = export(path, samples(64), tmp_path / "tuned", settings=TUNED)
    assert not refined(tuned).kept
    assert "not differentiable here: operator Unique at node" in refined(tuned).reason
    assert tuned.output.sha256 == plain.output.sha256


@pytest.mark.parametrize(
    ("graph", "weight", "said"),
    [
        ("a = MatMul(x, w) y = ArgMax<axis=1, keepdims=0>(a)", "w", "the model's outputs are integers"),
        ("a = MatMul(x, w) v, y = TopK<axis=1>(a, two)", "w", "the model's outputs are integers"),
        ("a = MatMul(x, w) y = NonZero(a)", "w", "the model's outputs are integers"),
        ("a = MatMul(x, w) y = Greater(a, zero)", "w", "the model's outputs do not hold floats"),
    ],
)
def test_a_model_without_outputs_of_floats_is_not_refined_and_says_why(
    graph: str, weight: str, said: str, tmp_path: Path
) -> None:
    kind = "bool[N,8]" if "Greater" in graph else "int64[N]" if "ArgMax" in graph else "int64[N,M]"
    stored = {"w": normal(16, 8), "two": np.array([2]), "zero": np.zeros((), np.float32)}
    report = export(
        save(model(f"g (float[N,16] x) => ({kind} y) {{ {graph} }}", stored), tmp_path), samples(64), tmp_path / "out"
    )
    assert refined(report).reason == f"no gradient reaches weight {weight}: {said}"
    assert [layer.state for layer in report.layers] == ["sparse"]
    assert report.accuracy is not None
    (output,) = report.accuracy.outputs
    assert output.not_compared or output.equal is not None


def test_weights_that_lead_to_integers_alone_stay_while_the_others_are_refined(tmp_path: Path) -> None:
    both = DEEP.replace("=> (", "=> (int64[N] label, ").replace("}", "z = MatMul(t, w3) label = ArgMax<axis=1>(z) }")
    both = both.replace("int64[N]", "int64[N,1]")
    path = save(model(both, WEIGHTS | {"w3": normal(32, 8, seed=3)}), tmp_path)
    plain = export(path, samples(600), tmp_path / "plain", settings=LAYERWISE)
    tuned = export(path, samples(600), tmp_path / "tuned", settings=TUNED)
    assert refined(tuned).kept, refined(tuned)
    assert plain.accuracy is not None
    assert [output.equal is None for output in plain.accuracy.outputs] == [False, True]
    before, after = stored(tmp_path / "plain"), stored(tmp_path / "tuned")
    assert is_two_four(after["w3"].T)
    assert not np.array_equal(after["w1"], before["w1"])


def test_a_weight_without_a_gradient_that_outputs_of_floats_depend_on_ends_the_refinement(tmp_path: Path) -> None:
    text = """g (float[N,16] x) => (float[N,8] y) {
        a = MatMul(x, w0) i = ArgMax<axis=1, keepdims=0>(a) e = Gather(table, i) y = MatMul(e, w1) }"""
    weights = {"w0": normal(16, 8), "table": normal(8, 16), "w1": normal(16, 8, seed=1)}
    report = export(save(model(text, weights), tmp_path), samples(64), tmp_path / "out")
    assert refined(report).reason == "no gradient reaches weight w0, and outputs of floats depend on it"
    assert [layer.state for layer in report.layers] == ["sparse", "sparse"]


def test_what_does_not_help_leaves_the_layer_wise_weights_of_all_samples(tmp_path: Path) -> None:
    worse = Settings(refine="weights", permute="no", refine_loss="tests.stages.test_refine:backwards")
    plain = export(network(tmp_path), samples(64), tmp_path / "plain", settings=LAYERWISE)
    tuned = export(network(tmp_path), samples(64), tmp_path / "tuned", settings=worse)
    assert not refined(tuned).kept
    assert "not better on the held-back samples" in refined(tuned).reason
    assert tuned.output.sha256 == plain.output.sha256


def backwards(pruned: Any, dense: Any) -> Any:
    """A loss without a gradient towards anything."""
    return (pruned[0] * 0 + dense[0] * 0).sum()


def test_an_objective_that_is_no_number_is_the_reason(tmp_path: Path) -> None:
    settings = Settings(refine="weights", permute="no", refine_loss="tests.stages.test_refine:nothing")
    report = export(network(tmp_path), samples(64), tmp_path / "out", settings=settings)
    assert not refined(report).kept
    assert "the solved layers' objective on the held-back samples is NaN or Inf" in refined(report).reason
    assert len(refined(report).curve) == 1


def nothing(pruned: Any, dense: Any) -> Any:
    """A loss that is NaN."""
    return (pruned[0] * np.nan + dense[0]).sum()


def test_logits_that_a_mask_hides_do_not_keep_the_others_from_being_refined(tmp_path: Path) -> None:
    masked = DEEP.replace("y = MatMul(t, w2)", "z = MatMul(t, w2) y = Where(shown, z, hidden)")
    more = {"shown": np.arange(8) % 4 > 0, "hidden": np.array(-np.inf, np.float32)}
    report = export(save(model(masked, WEIGHTS | more), tmp_path), samples(600), tmp_path / "out", settings=TUNED)
    before, after = refined(report).before, refined(report).after
    assert refined(report).kept, refined(report).reason
    assert before is not None
    assert after is not None
    assert 0 < after < before


def test_a_loss_of_the_users_that_fails_is_reported(tmp_path: Path, capfd: Any) -> None:
    save(model(DEEP, WEIGHTS), tmp_path, "deep.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([sample["x"] for sample in samples(64)]))
    (tmp_path / "failing_loss.py").write_text("def loss(pruned, dense):\n    raise KeyError('nothing')\n", "utf-8")
    arguments = ("deep.onnx", "--calibration", "data.npz", "--refine", "weights", "--refine-loss", "failing_loss:loss")
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert "--refine-loss failing_loss:loss failed: KeyError: 'nothing'" in outcome.stderr
    assert not (tmp_path / "deep-2to4").exists()


def test_too_few_samples_are_said_to_be_too_few(tmp_path: Path) -> None:
    report = export(network(tmp_path), samples(8), tmp_path / "out", settings=TUNED)
    assert refined(report).reason == "too few samples to hold any back, on which it could be judged"


def test_with_data_layers_are_refined_by_default(tmp_path: Path) -> None:
    path, data = network(tmp_path), samples(64)
    default, asked = (export(path, data, tmp_path / name, settings=s) for name, s in (("a", UNASKED), ("b", TUNED)))
    assert refined(default).curve == refined(asked).curve != ()
    assert default.output.sha256 == asked.output.sha256
    assert export(path, data, tmp_path / "c", settings=LAYERWISE).refinement is None


def test_where_nobody_asked_the_reason_says_how_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = network(tmp_path), samples(64)
    assert "random inputs" in refined(export(path, None, tmp_path / "random")).reason
    baseline = export(path, data, tmp_path / "wanda", settings=Settings(method="wanda"))
    assert refined(baseline).reason == "wanda is a baseline to compare with (--refine weights)"
    assert refined(export(path, data, tmp_path / "asked", settings=Settings(method="wanda", refine="weights"))).curve
    few = export(path, samples(30), tmp_path / "few")  # 6 for the report, 4 of the others held back
    assert refined(few).reason == "4 samples held back tell little, 8 would do (--refine weights)"
    monkeypatch.setattr("prox24_export.stages.refine.MEMORY_BY_DEFAULT", 1)
    large = export(path, data, tmp_path / "large")
    assert "GB of memory, and its time (--refine weights)" in refined(large).reason
    assert refined(export(path, data, tmp_path / "all-the-same", settings=TUNED)).curve
    monkeypatch.setattr("prox24_export.stages.refine.MODEL_BY_DEFAULT", 1)
    assert refined(export(path, data, tmp_path / "whole")).reason.startswith("the model takes 0.0 GB of memory")


def test_the_clock_limits_it_by_default_and_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data, said = network(tmp_path), samples(64), "it ended with its limit of 0.0001 minutes"
    monkeypatch.setattr("prox24_export.stages.refine.MINUTES_BY_DEFAULT", 1e-4)
    assert said in refined(default := export(path, data, tmp_path / "default")).reason
    asked = refined(export(path, data, tmp_path / "asked", settings=TUNED))
    assert "its limit" not in asked.reason
    assert len(asked.curve) > len(refined(default).curve) == 1
    limited = export(path, data, tmp_path / "limited", settings=Settings(refine="weights", refine_minutes=1e-4))
    assert said in refined(limited).reason


def test_contradicting_options_are_refused(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    outcome = in_process("deep.onnx", "--no-refine", "--refine", "all", folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert "--no-refine and --refine all contradict each other" in outcome.stderr
    outcome = in_process("deep.onnx", "--no-refine", "--method", "prox-model", folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    said = "--no-refine stands for --refine no, and --refine must be left out with --method prox-model, whose masks"
    assert said in outcome.stderr
