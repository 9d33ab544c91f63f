"""Why a pruned layer runs no sparse tactic, and what can be done about it."""

from dataclasses import replace

import pytest

from prox24_export.engines.diagnosis.builder_log import SparsityLog
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.diagnosis.tactic_times import TacticTimes
from tests.engines.diagnosis.evidence import DENSE, SPARSE, gemm, log_of, only, states, wide

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


def test_a_layer_that_was_timed_under_several_names_has_the_fastest_of_them() -> None:
    slower = replace(TIMES, layer="b + a", dense_ms=0.02, sparse_ms=0.016)
    for times in ((TIMES, slower), (slower, TIMES)):
        found = only(wide("a"), replace(LISTED, times=times), None)
        assert "(0.016 ms sparse, 0.0153 ms dense)" in found.reason
