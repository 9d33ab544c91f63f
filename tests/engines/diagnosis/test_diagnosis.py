"""What became of every pruned layer: three states, the reason and remedy where one is missing, and disagreements."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from prox24_export.engines.diagnosis import builder_log, inspector
from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer, list_pruned_layers
from prox24_export.engines.diagnosis.tactic_times import TacticTimes
from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.results.engine import LayerDiagnosis
from prox24_export.results.report import LayerReport
from tests.engines.diagnosis.tables import format_table

GOLDEN = Path(__file__).parent / "golden"
SPARSE = "sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tn_n_sptensor16x8x32"
DENSE = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x32x64"


def wide(name: str, **more: object) -> PrunedLayer:
    """A layer of which nothing speaks against a sparse tactic."""
    return replace(PrunedLayer(name, "MatMul", 1024, 1024, 1024), **more)  # type: ignore[arg-type]


def log_of(eligible: Sequence[str], chosen: Sequence[str], **more: object) -> SparsityLog:
    lists = (LayerList(tuple(names), len(names)) for names in (eligible, chosen))
    eligible_list, chosen_list = lists
    return replace(SparsityLog(eligible_list, chosen_list, is_verbose=True), **more)  # type: ignore[arg-type]


def gemm(name: str, tactic: str, *nodes: str, **more: object) -> EngineLayer:
    return replace(EngineLayer(name, "gemm", tactic, nodes), **more)  # type: ignore[arg-type]


def only(
    layer: PrunedLayer, log: SparsityLog | None, engine: Sequence[EngineLayer] | None, *, allowed: bool = True
) -> LayerDiagnosis:
    ((diagnosis,), disagreements) = diagnose([layer], log, engine, allowed=allowed)
    assert not disagreements
    return diagnosis


def states(diagnosis: LayerDiagnosis) -> tuple[bool, bool | None, bool | None]:
    return diagnosis.pattern, diagnosis.eligible, diagnosis.chosen


def check(name: str, text: str) -> None:
    assert max(map(cell_len, text.splitlines())) <= 100
    assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


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


REGION = EngineLayer("{ForeignNode[x...y]}", "Myelin")
NONE = log_of([], [])
LISTED = log_of(["a"], [])
TIMES = TacticTimes("a", (), 0.0153, DENSE, 0.0181, SPARSE)


@pytest.mark.parametrize(
    ("layer", "log", "engine", "reason", "remedy"),
    [
        (wide("a", is_two_four=False), NONE, (), "its weight is not 2:4 in the file", "verify the file"),
        (wide("a", precision="fp32"), NONE, (), "it is computed in fp32", "build in fp16"),
        (wide("a", group=4), NONE, (), "grouped convolution (group = 4)", ""),
        (
            wide("a"),
            NONE,
            (EngineLayer("a", "PluginV2"),),
            "a plugin computes it (PluginV2)",
            "build without the plugin",
        ),
        (wide("a", k=1000, channels=1000), NONE, (), "K = 1000 is not a multiple of 16", "K = 1008"),
        (wide("a", k=1008, channels=1008, precision="int8"), NONE, (), "K = 1008 is not a multiple of 32", "K = 1024"),
        (wide("a", k=1008, channels=1008), NONE, (), "TensorRT does not list it as eligible", ""),
        (wide("a", op="Conv", k=360, channels=40), NONE, (), "C_in = 40 is not a multiple of 16", "C_in = 48"),
        (wide("a", n=1001), NONE, (), "N = 1001 is not a multiple of 8", "N = 1008"),
        (wide("a", n=64), LISTED, (), "small (K = 1024, N = 64): below 256", "from 256 channels on"),
        (wide("a", op="Conv", k=576, channels=64), LISTED, (), "small (C_in = 64, N = 1024)", "larger batch"),
        (
            wide("a", precision="int8"),
            LISTED,
            (gemm("a", DENSE, "a", outputs=("fp16",)),),
            "its output is fp16: sparse int8 kernels",
            "quantise its output too",
        ),
        (wide("a", precision="fp8", output_is_quantised=False), LISTED, (), "its output is float: sparse fp8", "quant"),
        (
            wide("a", precision="int8", output_is_quantised=True),
            LISTED,
            (),
            "the builder took a dense tactic",
            "VERBOSE",
        ),
        (
            wide("a"),
            replace(LISTED, times=(TIMES,)),
            (),
            "the dense tactic was faster: the sparse one takes 18.3 %",
            "",
        ),
        (
            wide("a", n=64),
            replace(LISTED, times=(TIMES,)),
            (),
            "takes 18.3 % longer (0.0181 ms sparse, 0.0153 ms dense)",
            "expect a gain from 256",
        ),
        (
            wide("a"),
            replace(LISTED, times=(replace(TIMES, sparse_ms=0.0102),)),
            (),
            "took 33.3 % less time alone (0.0102 ms sparse, 0.0153 ms dense)",
            "",
        ),
        (
            wide("a", k=1000, channels=1000),
            replace(LISTED, times=(replace(TIMES, sparse_ms=None),)),
            (),
            "K = 1000 is not a multiple of 16",
            "",
        ),
        (
            wide("a", n=64),
            replace(LISTED, times=(replace(TIMES, sparse_ms=None),)),
            (),
            "the builder timed dense tactics only (the fastest 0.0153 ms): it has no sparse one here",
            "",
        ),
        (wide("x", n=1001), NONE, (REGION,), "N = 1001 is not a multiple of 8", ""),
        (wide("x"), NONE, (REGION,), "a Myelin region swallowed it, and shows no product of its own", "profiler"),
        (wide("a"), replace(NONE, regions={"{ForeignNode[x...y]}": ("a",)}), (), "a Myelin region swallowed it", ""),
        (wide("a"), LISTED, (), "by how much it was faster is not in the log", "without a timing cache"),
        (wide("a"), replace(LISTED, chosen=None), (), "neither builder log nor inspector tells", "VERBOSE"),
        (wide("a"), None, (), "no builder log was captured", "--verbose"),
        (wide("a"), SparsityLog(None, None), (), "it was not captured at VERBOSE", "--verbose"),
        (wide("a"), SparsityLog(None, None, is_verbose=True), (), "although it is verbose", "SPARSE_WEIGHTS"),
        (wide("a", n=64), None, (gemm("a", DENSE, "a"),), "small (K = 1024, N = 64)", ""),
        (wide("a"), None, (gemm("a", DENSE, "a"),), "no builder log was captured", ""),
    ],
)
def test_reasons_and_remedies(
    layer: PrunedLayer, log: SparsityLog | None, engine: tuple[EngineLayer, ...], reason: str, remedy: str
) -> None:
    found = only(layer, log, engine)
    assert reason in found.reason
    assert remedy in found.remedy
    assert not found.disagreement


def test_a_build_that_was_not_allowed_sparse_tactics_says_so() -> None:
    found = only(wide("a"), NONE, [gemm("a", DENSE, "a")], allowed=False)
    assert found.reason == "sparse tactics were not allowed in this build"
    assert "--sparsity=enable" in found.remedy


def test_a_pattern_that_is_wrong_is_the_reason_even_where_a_sparse_tactic_runs() -> None:
    found = only(wide("a", is_two_four=False), log_of(["a"], ["a"]), [gemm("a", SPARSE, "a")])
    assert states(found) == (False, True, True)
    assert "not 2:4" in found.reason


def test_golden_table_of_a_build_with_log_and_inspector() -> None:
    """Two convolutions and two Gemms, as log and inspector of 10.x have them; what neither shows is in a region."""
    region = "{ForeignNode[gemm1.weight...ONNXTRT_castHelper_9]}"
    nodes = "".join(f"[ONNX Layer: {node}]" for node in ("node_view", "node_linear", "node_relu_2", "node_linear_1"))
    text = (GOLDEN / "tactics_10.txt").read_text(encoding="utf-8")
    convolutions = ("node_conv2d + node_relu", "node_conv2d_1 + node_relu_1")
    lines = [
        "Registering layer: node_linear for ONNX node: node_linear",
        "Registering layer: node_linear_1 for ONNX node: node_linear",
        "Registering layer: node_linear_1_2 for ONNX node: node_linear_1",
        f"ForeignNode {region} metadata: {nodes}",
        *(line.split("[V] ", 1)[1] for line in text.splitlines()),
        " (foreignNode) (Sparsity) Found 1 layer(s) eligible to use sparse tactics: node_linear",
        " (foreignNode) (Sparsity) Chose 0 layer(s) using sparse tactics:",
        f"(Sparsity) Found 2 layer(s) eligible to use sparse tactics: {', '.join(convolutions)}",
        "(Sparsity) Chose 0 layer(s) using sparse tactics:",
    ]
    layers = [
        PrunedLayer("node_conv2d", "Conv", 800, 64, 32),
        PrunedLayer("node_conv2d_1", "Conv", 800, 64, 32),
        PrunedLayer("node_linear", "Gemm", 3136, 1024, 3136),
        PrunedLayer("node_linear_1", "Gemm", 1024, 16, 1024),
    ]
    engine = inspector.parse((GOLDEN / "inspector_10.json").read_text(encoding="utf-8"))
    diagnoses, disagreements = diagnose(layers, builder_log.parse_messages(lines), engine)
    assert disagreements == ()
    check("diagnosis_build", format_table(diagnoses))


def test_golden_table_of_every_kind_of_answer() -> None:
    long = "/model/encoder/layers.11/self_attn/out_proj/MatMul"
    layers = [
        wide("q_proj"),
        wide(long),
        wide("k_proj", n=128),
        wide("v_proj"),
        wide("fc1", k=1000, channels=1000),
        wide("fc2", precision="fp32"),
        wide("conv", op="Conv", k=1152, channels=128, group=2),
        wide("head", is_two_four=False),
        wide("swallowed"),
        wide("plugin"),
    ]
    times = (TacticTimes("k_proj", (), 0.0153, DENSE, 0.0181, SPARSE),)
    region = "{ForeignNode[embedding...swallowed]}"
    log = log_of(
        ["q_proj", f"{long} + add", "k_proj", "v_proj"],
        ["q_proj", "v_proj"],
        times=times,
        regions={region: ("embedding", "swallowed")},
    )
    engine = [
        gemm("q_proj_myl0_1", SPARSE, "q_proj"),
        gemm("out_proj_myl0_2", SPARSE, long, "add"),
        gemm("k_proj_myl0_3", DENSE, "k_proj"),
        gemm("v_proj_myl0_4", DENSE, "v_proj"),
        EngineLayer(region, "Myelin"),
        EngineLayer("plugin", "PluginV3", "", ("plugin",)),
    ]
    diagnoses, disagreements = diagnose(layers, log, engine)
    assert disagreements == ()
    check("diagnosis_kinds", format_table(diagnoses))


def test_golden_table_without_log_and_inspector() -> None:
    diagnoses, disagreements = diagnose([wide("q_proj"), wide("fc1", k=24, channels=24, n=12)], None, None)
    assert disagreements == ()
    check("diagnosis_nothing", format_table(diagnoses))


NODES = ("a", "b", "c [odd]", "/d/MatMul")
TACTIC = st.sampled_from([SPARSE, DENSE, "", "__myl_ConvSpars_0x1"])
ENGINE = st.lists(
    st.builds(
        EngineLayer,
        st.sampled_from(["a", "b + a", "/d/MatMul_myl0_1", "{ForeignNode[a...b]}", "z"]),
        st.sampled_from(["gemm", "kgen", "CaskConvolution", "Myelin", "PluginV3", ""]),
        TACTIC,
        st.lists(st.sampled_from(NODES), max_size=2).map(tuple),
    ),
    max_size=4,
)
LISTS = st.none() | st.builds(
    LayerList,
    st.lists(st.sampled_from(["a", "a + b", "c [odd]", "{ForeignNode[a...b]}", "z"]), max_size=3).map(tuple),
    st.integers(0, 4),
    st.booleans(),
)
LOGS = st.none() | st.builds(
    SparsityLog,
    LISTS,
    LISTS,
    st.lists(
        st.builds(
            TacticTimes,
            st.sampled_from(["a", "b"]),
            dense_ms=st.none() | st.floats(0.001, 9),
            sparse_ms=st.none() | st.floats(0.001, 9),
        ),
        max_size=2,
    ).map(tuple),
    is_verbose=st.booleans(),
)
LAYERS = st.lists(
    st.builds(
        PrunedLayer,
        st.sampled_from(NODES),
        st.just("MatMul"),
        st.integers(4, 2000),
        st.integers(1, 2000),
        st.integers(4, 2000),
        st.sampled_from([1, 2]),
        st.sampled_from(["fp32", "fp16", "bf16", "int8", "fp8"]),
        st.none() | st.booleans(),
        st.booleans(),
    ),
    unique_by=lambda layer: layer.name,
    max_size=4,
)


@given(LAYERS, LOGS, st.none() | ENGINE, st.booleans())
def test_whatever_the_evidence_nothing_is_claimed_without_it(
    layers: list[PrunedLayer], log: SparsityLog | None, engine: list[EngineLayer] | None, allowed: bool
) -> None:
    diagnoses, _ = diagnose(layers, log, engine, allowed=allowed)
    assert [item.name for item in diagnoses] == [layer.name for layer in layers]
    for item in diagnoses:
        assert bool(item.reason) == (states(item) != (True, True, True))
        assert not (item.disagreement and item.chosen is not None)
        if log is None:
            assert item.eligible is None
        if item.chosen:
            named = log is not None and log.chosen is not None and log.chosen.names
            assert named or any(layer.is_sparse for layer in engine or ())


def test_a_layer_that_was_timed_under_several_names_has_the_fastest_of_them() -> None:
    slower = replace(TIMES, layer="b + a", dense_ms=0.02, sparse_ms=0.016)
    for times in ((TIMES, slower), (slower, TIMES)):
        found = only(wide("a"), replace(LISTED, times=times), None)
        assert "(0.016 ms sparse, 0.0153 ms dense)" in found.reason


def test_the_log_alone_or_the_inspector_alone_decides_where_the_other_is_silent() -> None:
    assert only(wide("a"), log_of(["a"], ["a"]), None).chosen is True
    assert only(wide("a"), log_of(["a"], []), None).chosen is False
    assert only(wide("a"), None, [gemm("a", SPARSE, "a")]).chosen is True
    assert only(wide("a"), None, None).chosen is None


def test_every_node_of_a_shared_weight_is_a_layer_and_dense_ones_are_not() -> None:
    shared = Linear(
        "first",
        "MatMul",
        "w",
        "float32",
        Layout((64, 32)),
        64,
        32,
        (Use("first", "x", Rows()), Use("second", "y", Rows())),
    )
    patches = Patches((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    conv = Linear("conv", "Conv", "v", "float32", Layout((32, 16, 3, 3)), 144, 32, (Use("conv", "x", patches),))
    rows = [
        LayerReport("first", "MatMul", "w", 64, 32, 2048, 0.1, "sparse"),
        LayerReport("conv", "Conv", "v", 144, 32, 4608, 0.1, "sparse"),
        LayerReport("dense", "Gemm", "u", 3, 2, 6, 0.1, "dense", "too small"),
        LayerReport("alone", "Gemm", "t", 32, 8, 256, 0.1, "sparse"),
    ]
    found = list_pruned_layers(
        rows,
        [shared, conv],
        "fp16",
        overrides={"second": "fp32", "conv": "int8"},
        quantised_outputs={"conv": False},
        wrong={"first"},
    )
    assert found == (
        PrunedLayer("first", "MatMul", 64, 32, 64, is_two_four=False),
        PrunedLayer("second", "MatMul", 64, 32, 64, precision="fp32", is_two_four=False),
        PrunedLayer("conv", "Conv", 144, 32, 16, precision="int8", output_is_quantised=False),
        PrunedLayer("alone", "Gemm", 32, 8, 32),
    )
    assert np.prod(patches.kernel) * found[2].channels == found[2].k
