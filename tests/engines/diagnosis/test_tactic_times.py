"""The fastest dense and sparse tactic of a layer, from verbose logs of TensorRT 8 and 10."""

import time
from pathlib import Path

import pytest

from prox24_export.engines.diagnosis import builder_log
from tests.engines.diagnosis.builder_logs import lists, pair

GOLDEN = Path(__file__).parent / "golden"
EIGHT, TEN = ((GOLDEN / f"tactics_{version}.txt").read_text(encoding="utf-8") for version in (8, 10))


def test_fastest_tactics_of_tensorrt_8() -> None:
    (times,) = builder_log.parse(EIGHT).times
    assert (times.layer, times.dense_ms, times.sparse_ms) == ("Conv_3 + Relu_4", 0.0153, 0.0181)
    assert times.sparse_tactic == "sm80_xmma_fprop_sparse_conv_sptensor16x8x32"
    assert times.sparse_excess == pytest.approx(0.0181 / 0.0153 - 1)


def test_fastest_tactics_of_tensorrt_10_over_runners_and_inside_regions() -> None:
    conv, linear = builder_log.parse(TEN).times
    assert (conv.layer, conv.dense_ms, conv.dense_tactic) == (
        "node_conv2d + node_relu",
        0.0211,
        "sm80_xmma_fprop_flat_f16",
    )
    assert (conv.sparse_ms, conv.sparse_tactic) == (0.0302, "sm80_xmma_fprop_sparse_conv_sptensor16x8x16")
    assert (linear.layer, linear.nodes) == ("node_linear", ("node_linear", "node_relu_2"))
    assert (linear.dense_ms, linear.sparse_ms) == (0.0065088, 0.0126912)


@pytest.mark.parametrize("width", [61, 80, 117, 150])
def test_times_survive_the_wrapping_of_a_terminal(width: int) -> None:
    for text in (EIGHT, TEN):
        wrapped = "\n".join(line[s : s + width] for line in text.splitlines() for s in range(0, len(line), width))
        assert builder_log.parse(wrapped).times == builder_log.parse(text).times


def test_a_tactic_without_a_readable_time_is_left_out() -> None:
    text = (
        TEN.replace("Time: 0.0302", "Time: inf").replace("Time: 0.0402", "Time: -").replace("Time: 0.0211", "Time: 0")
    )
    conv, _ = builder_log.parse(text).times
    assert (conv.sparse_ms, conv.sparse_excess) == (None, None)
    assert conv.dense_ms == 0.0513463


def test_the_speed_is_that_of_one_pass() -> None:
    line = "[07/07/2026-06:14:26] [TRT] [V] Tactic Name: sm80_xmma_fprop_implicit_gemm Tactic: 0xd828f0246 Time: 0.05"
    text = "\n".join([line] * 100_000 + ["printed by something else"] * 100_000 + pair(["a"], ["a"], "python"))
    start = time.perf_counter()
    assert lists(builder_log.parse(text)) == (["a"], ["a"])
    assert time.perf_counter() - start < 20
