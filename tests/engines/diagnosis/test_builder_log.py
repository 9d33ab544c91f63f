"""Builder logs of every wording: pairs, counts, breaks and prefixes are read right, or their doubt is told."""

import time

import pytest

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.builder_log import LayerList
from prox24_export.engines.diagnosis.layer_names import read_onnx_nodes
from tests.engines.diagnosis.builder_logs import EXCERPT_G, MISSING, lists, pair


def test_the_last_plain_pair_counts_and_foreign_pairs_are_united() -> None:
    lines = [
        *pair(["a", "b"], ["a"], "python"),
        *pair(["m1"], [], "python", foreign=True),
        *pair(["m2", "m1"], ["m2"], "python", foreign=True),
        *pair(["b", "c"], ["c"], "python"),
    ]
    log = builder_log.parse("\n".join(lines))
    assert lists(log) == (["m1", "m2", "b", "c"], ["m2", "c"])
    assert not log.problems


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("(Sparsity) Found 3 layer(s) eligible to use sparse tactics: a, b", "3 layers are eligible, but 2 names"),
        ("(Sparsity) Found 1 layer(s) eligible to use sparse tactics: a, b", "1 layers are eligible, but 2 names"),
        ("(Sparsity) Found 2 layer(s) eligible to use sparse tactics:", "2 layers are eligible, but it gives no names"),
    ],
)
def test_a_count_that_does_not_fit_is_told_and_makes_the_list_incomplete(line: str, said: str) -> None:
    log = builder_log.parse(f"{line}\n(Sparsity) Chose 0 layer(s) using sparse tactics:")
    assert said in log.problems[0]
    assert "line 1 " in log.problems[0]
    assert log.eligible is not None
    assert not log.eligible.is_complete


def test_a_chosen_layer_that_is_not_eligible_is_told() -> None:
    log = builder_log.parse("\n".join(pair(["a"], ["a", "b"], "python")))
    assert log.problems == ("the log says that b is chosen but not that it is eligible",)


def test_a_foreign_pair_without_its_second_line_leaves_the_chosen_list_open() -> None:
    lines = pair(["m"], ["m"], "python", foreign=True)[:1] + pair(["a"], ["a"], "python")
    log = builder_log.parse("\n".join(lines))
    assert MISSING in log.problems[0]
    assert log.chosen == LayerList(("a",), 1, is_complete=False)


def test_pointwise_names_hold_the_separator() -> None:
    text = "(Sparsity) Layers eligible for sparse math: Conv_0 + PWN(PWN(Sigmoid_1), Mul_2), Conv_3"
    log = builder_log.parse_messages([text])
    assert log.eligible is not None
    assert log.eligible.names == ("Conv_0 + PWN(PWN(Sigmoid_1), Mul_2)", "Conv_3")


def test_what_a_program_prints_after_the_list_is_no_layer() -> None:
    longer = "[V] [TRT] Engine generation completed in 13.7898 seconds. " + "x" * 80
    lines = [longer, *pair(["conv1"], ["conv1"], "trtexec"), "Finish"]
    log = builder_log.parse("\n".join(lines))
    assert lists(log) == (["conv1"], ["conv1"])
    assert not log.problems


def test_what_may_be_a_wrapped_rest_is_told() -> None:
    """Nothing in the text is longer than the last line, so that `Finish` may be the rest of its name."""
    log = builder_log.parse("\n".join([*pair(["c"], ["conv1"], "trtexec", old=True), "Finish"]))
    assert log.problems
    assert "wrapped rest" in log.problems[0]


@pytest.mark.parametrize("old", [False, True])
def test_a_bare_message_after_the_longest_bare_line_is_no_part_of_its_list(old: bool) -> None:
    found, chose = pair(["a_long_name_of_a_layer"], ["a_long_name_of_a_layer"], "bare", old=old)
    log = builder_log.parse(f"{found}\nsomething else\n{chose}\nsomething else")
    assert lists(log) == (["a_long_name_of_a_layer"], ["a_long_name_of_a_layer"])
    assert len(log.problems) == 1  # of the longer line, whose rest it might be
    assert "may go on" in log.problems[0]


def test_a_prefix_may_be_wrapped_off_its_message() -> None:
    lines = [*pair(["a"], ["a"], "python", foreign=True), *pair(["b", "c"], ["c"], "python")]
    for width in (32, 33, 46, 47, 48):  # right after the prefix, and after what marks a region
        text = "\n".join(line[start : start + width] for line in lines for start in range(0, len(line), width))
        assert lists(builder_log.parse(text)) == (["a", "b", "c"], ["a", "c"])


def test_names_after_a_break_that_is_no_wrapping_are_read_on_as_the_count_asks_and_told() -> None:
    found, chose = pair(["aa", "bb", "cc"], [], "trtexec")
    longer = "[V] [TRT] " + "x" * 200
    log = builder_log.parse(f"{longer}\n{found.replace(': aa', ':' + chr(10) + 'aa')}\n{chose}")
    assert lists(log) == (["aa", "bb", "cc"], [])
    assert "as the number of layers that it states asks for" in log.problems[0]


def test_colours_are_left_out() -> None:
    found, chose = pair(["a", "b"], ["b"], "polygraphy")
    log = builder_log.parse(f"\x1b[90m{found}\x1b[0m\r\n\x1b[90m{chose}\x1b[0m\r\n")
    assert lists(log) == (["a", "b"], ["b"])
    assert not log.problems


def test_polygraphy_indents_what_a_nested_scope_logs() -> None:
    log = builder_log.parse("\n".join(pair(["a", "b"], ["b"], "polygraphy", bare="    ")))
    assert lists(log) == (["a", "b"], ["b"])


def test_registered_layers_and_regions_are_read() -> None:
    log = builder_log.parse(
        "[07/07/2026-06:14:24] [TRT] [V] Registering layer: node_linear_1_2 for ONNX node: node_linear_1\n"
        "[07/07/2026-06:14:24] [TRT] [V] Registering layer: gemm2.bias required by ONNX-TRT\n"
        "[07/07/2026-06:14:30] [TRT] [V] ForeignNode {ForeignNode[gemm1.weight...ONNXTRT_castHelper_9]} metadata: "
        "[ONNX Layer: node_linear]\x1e[ONNX Layer: node_relu_2]\x1f[ONNX Layer: node_linear_1]\n"
    )
    assert log.registered == {"node_linear_1_2": "node_linear_1"}
    region = "{ForeignNode[gemm1.weight...ONNXTRT_castHelper_9]}"
    assert log.regions == {region: ("node_linear", "node_relu_2", "node_linear_1")}


@pytest.mark.parametrize("between", ["", " ", "\x1e", "\x1f"])
def test_what_became_of_a_node_is_no_part_of_its_name(between: str) -> None:
    """As TensorRT for RTX 1.7.1 writes it of a 1×1 convolution that it computes as a product."""
    nodes = (
        "[ONNX Layer: gap27]",
        "[ONNX Layer: conv27]__gemm_from_conv1x1",
        "[ONNX Layer: a[0]]",
        "[ONNX Layer: flat]",
    )
    assert read_onnx_nodes(between.join(nodes)) == ("gap27", "conv27", "a[0]", "flat")


NO_MEMORY = "Device memory is insufficient to use tactic."
REQUEST = f"[10/18/2023-20:27:01] [TRT] [W] Tactic Device request: 448MB Available: 425MB. {NO_MEMORY}"
OLD_REQUEST = f"[TensorRT] ERROR: Tactic Device request: 1800MB Available: 1536MB. {NO_MEMORY}"
SKIPPED_8 = (  # spelt so
    "[10/18/2023-20:27:01] [TRT] [W] Skipping tactic 3 due to insuficient memory on requested size of 448 detected for "
    "tactic 4."
)
SKIPPED_10 = (
    "[10/01/2025-08:26:34] [TRT] [W] UNSUPPORTED_STATE: Skipping tactic 33 due to insufficient memory on requested "
    "size of 629145600 detected for tactic 0xa5a46bfbd719d757."
)


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ([REQUEST, SKIPPED_8], 1),
        ([SKIPPED_10, REQUEST, SKIPPED_10], 2),
        ([OLD_REQUEST, OLD_REQUEST, OLD_REQUEST], 3),
    ],
)
def test_tactics_left_out_for_want_of_memory_make_the_build_untrustworthy(lines: list[str], count: int) -> None:
    log = builder_log.parse("\n".join(lines))
    assert len(log.warnings) == 1
    said = "1 tactic was left out" if count == 1 else f"{count} tactics were left out"
    assert log.warnings[0].startswith(said)
    assert "not to be trusted" in log.warnings[0]
    assert builder_log.parse(EXCERPT_G).warnings == ()


def test_a_count_of_thousands_of_digits_is_no_count() -> None:
    log = builder_log.parse(f"(Sparsity) Found {'9' * 5000} layer(s) eligible to use sparse tactics: a, b")
    assert log.eligible is None


@pytest.mark.parametrize(
    "text",
    [
        f"ForeignNode {{ForeignNode[a...b]}} metadata: [ONNX Layer: {' ' * 200_000}x",
        "(Sparsity) Found 9 layer(s) eligible to use sparse tactics: " + "PWN(, " * 100_000,
    ],
    ids=["spaces in metadata", "names that do not end"],
)
def test_no_line_takes_longer_than_its_length_asks_for(text: str) -> None:
    began = time.process_time()
    builder_log.parse(text)
    assert time.process_time() - began < 10
