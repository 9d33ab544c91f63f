"""What became of every pruned layer: three states, from builder log and inspector, and their disagreements."""

from dataclasses import replace

import pytest

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.results.engine import LayerDiagnosis
from tests.engines.diagnosis.evidence import DENSE, SPARSE, gemm, log_of, only, states, wide


def test_all_three_states_and_nothing_to_explain() -> None:
    engine = [gemm("a_myl0_1", SPARSE, "a", "relu")]
    found = only(wide("a"), log_of(["a + relu"], ["a + relu"]), engine)
    assert found == LayerDiagnosis("a", True, True, True, "a_myl0_1", SPARSE)


@pytest.mark.parametrize(
    "name",
    ["a", "b + a", "a + b", "x || a", "a [profile 1]", "a_myl4_0", "a [profile 1]_myl13_2", "b+a+c_myl0_2"],
)
def test_names_that_tensorrt_decorates_are_the_node_s(name: str) -> None:
    found = only(wide("a"), log_of([name], [name]), [gemm(name, SPARSE)])
    assert states(found) == (True, True, True)
    assert found.engine_layer == name
    other, _ = diagnose([wide("aa"), wide("a_myl4")], log_of([name], [name]), [gemm(name, SPARSE)])
    assert [states(item) for item in other] == [(True, False, False)] * 2


def test_the_log_s_own_register_beats_a_name_that_misleads() -> None:
    """A Gemm becomes two layers: `linear_1` is the bias of `linear`, and the node `linear_1` became `linear_1_2`."""
    registered = {"linear": "linear", "linear_1": "linear", "linear_1_2": "linear_1"}
    layers = [wide("linear"), wide("linear_1")]
    (first, second), _ = diagnose(layers, log_of(["linear_1_2"], ["linear_1_2"], registered=registered), None)
    assert states(first) == (True, False, False)
    assert states(second) == (True, True, True)
    engine = [gemm("linear_1_2_myl6_3", SPARSE)]
    (_, by_name), _ = diagnose(layers, log_of(["linear_1_2"], ["linear_1_2"], registered=registered), engine)
    assert by_name.engine_layer == "linear_1_2_myl6_3"


def test_the_tactic_is_that_of_the_product_and_not_of_what_stands_beside_it() -> None:
    beside = EngineLayer("__myl_Add_myl0_2", "kgen", "__myl_ConvAdd_0x1", ("a",))
    found = only(wide("a"), log_of(["a"], []), [beside, gemm("a_myl0_1", DENSE, "a")])
    assert (found.engine_layer, found.tactic, found.chosen) == ("a_myl0_1", DENSE, False)


def test_a_layer_called_sparse_need_not_have_a_sparse_tactic() -> None:
    engine = [EngineLayer("sparse_conv", "CaskConvolution", "sm70_xmma_fprop_conv1x1", ("sparse_conv",))]
    assert only(wide("sparse_conv"), None, engine).chosen is False


def test_log_says_chosen_and_the_inspector_dense() -> None:
    ((found,), disagreements) = diagnose([wide("a")], log_of(["a"], ["a"]), [gemm("a_myl0_0", DENSE, "a")])
    assert states(found) == (True, True, None)
    assert "lists it as chosen (as a)" in found.disagreement
    assert f"the dense tactic {DENSE} in a_myl0_0" in found.disagreement
    assert found.reason == "builder log and inspector contradict each other"
    assert disagreements == ("the builder log counts 1 layers with sparse tactics, the inspector shows 0",)


def test_the_inspector_says_sparse_and_the_log_does_not() -> None:
    ((found,), disagreements) = diagnose([wide("a")], log_of(["a"], []), [gemm("a_myl0_0", SPARSE, "a")])
    assert states(found) == (True, True, None)
    assert "does not list it as chosen; the inspector shows the sparse tactic" in found.disagreement
    assert disagreements == ("the builder log counts 0 layers with sparse tactics, the inspector shows 1",)
    without = replace(log_of([], []), chosen=None)
    ((found,), _) = diagnose([wide("a")], without, [gemm("a_myl0_0", SPARSE, "a")])
    assert "does not list it as eligible; the inspector shows" in found.disagreement
    assert found.chosen is None


def test_a_plugin_that_is_listed_as_chosen_is_a_disagreement() -> None:
    ((found,), _) = diagnose([wide("a")], log_of(["a"], ["a"]), [EngineLayer("a", "PluginV3", "", ("a",))])
    assert found.disagreement.endswith("the inspector shows a plugin")


def test_profiles_that_differ_are_a_disagreement_and_profiles_that_agree_are_one_layer() -> None:
    both = [gemm("a_myl0_1", SPARSE, "a"), gemm("a [profile 1]_myl7_1", DENSE, "a")]
    ((found,), _) = diagnose([wide("a")], log_of(["a"], ["a"]), both)
    assert found.chosen is None
    assert found.disagreement == (
        "the inspector shows a sparse tactic in a_myl0_1 and a dense one in a [profile 1]_myl7_1"
    )
    same = [both[0], replace(both[1], tactic=SPARSE)]
    assert only(wide("a"), log_of(["a"], ["a"]), same).chosen is True


def test_what_belongs_to_no_pruned_layer_is_told() -> None:
    log = log_of(["a", "other", "{ForeignNode[a...b]}"], ["other"])
    engine = [gemm("another_myl0_0", SPARSE, "another"), gemm("a_myl0_1", DENSE, "a")]
    _, disagreements = diagnose([wide("a")], log, engine)
    assert disagreements == (
        "the builder log says that a sparse tactic was chosen for other, which is no pruned layer of the model",
        f"the inspector shows the sparse tactic {SPARSE} in another_myl0_0, which is no pruned layer of the model",
    )


def test_a_count_without_names_is_compared_too() -> None:
    log = builder_log.parse(
        "(Sparsity) Found 39 layer(s) eligible to use sparse tactics\n(Sparsity) Chose 7 layer(s) using sparse tactics"
    )
    ((found,), disagreements) = diagnose([wide("a")], log, [gemm("a_myl0_1", SPARSE, "a")])
    assert states(found) == (True, None, True)
    assert found.reason == "the builder log's list of eligible layers is not complete"
    assert disagreements == ("the builder log counts 7 layers with sparse tactics, the inspector shows 1",)


def test_a_region_is_a_layer_s_where_it_holds_no_other() -> None:
    region = "{ForeignNode[x...y]}"
    log = log_of([region], [], regions={region: ("x", "a", "y")})
    (alone, outside), _ = diagnose([wide("a"), wide("z")], log, None)
    assert (alone.eligible, outside.eligible) == (True, False)
    (first, second), _ = diagnose([wide("a"), wide("y")], log, None)
    assert (first.eligible, second.eligible) == (None, None)
    assert only(wide("x"), log_of([region], []), None).eligible is None  # which layers it holds is not known


def test_the_log_alone_or_the_inspector_alone_decides_where_the_other_is_silent() -> None:
    assert only(wide("a"), log_of(["a"], ["a"]), None).chosen is True
    assert only(wide("a"), log_of(["a"], []), None).chosen is False
    assert only(wide("a"), None, [gemm("a", SPARSE, "a")]).chosen is True
    assert only(wide("a"), None, None).chosen is None
