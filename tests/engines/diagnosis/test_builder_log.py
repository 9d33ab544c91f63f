"""Builder logs of every wording, prefix and wrapping: what is read is right, or its doubt is told."""

import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog

PREFIXES = {
    "trtexec": "[08/05/2024-12:06:54] [{level}] [TRT] ",
    "python": "[07/07/2026-06:14:38] [TRT] [{level}] ",
    "python 8.0": "[TensorRT] {word}: ",
    "polygraphy": "[{letter}] ",
    "polygraphy with times": "[{letter}] (12:06:54) ",
    "torch-tensorrt": "{word}: [Torch-TensorRT TensorRT Conversion Context] - ",
    "bare": "",
}
NOISE = (
    "Registering layer: node_{n} for ONNX node: node_{n}",
    "Finalize: node_conv2d_{n} + node_relu_{n} Set kernel index: {n}",
    "Total Weights Memory: {n} bytes",
    "--------------- Timing Runner: node_conv2d_{n} (CaskConvolution[0x80000009])",
    "Tactic Name: sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_{n} Tactic: 0x93af0e4f5f3d Time: 0.01{n}",
    " (foreignNode)   64, 0.0237376, 3.64700, 0.56798, sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_{n}, 0x51b1ce23e48aa,",
    "Subgraph compilation completed in {n}.926 seconds.",
)


def prefix(style: str, *, verbose: bool) -> str:
    letter = "X" if verbose else "V"  # Polygraphy's EXTRA_VERBOSE holds TensorRT's VERBOSE
    return PREFIXES[style].format(level="VI"[not verbose], word="VERBOSE" if verbose else "INFO", letter=letter)


def pair(
    eligible: list[str], chosen: list[str], style: str, *, old: bool = False, foreign: bool = False, bare: str = ""
) -> list[str]:
    """Both lines as TensorRT writes them."""
    if old:
        texts = (
            "(Sparsity) Layers eligible for sparse math: ",
            "(Sparsity) TRT inference plan picked sparse implementation for layers: ",
        )
    else:
        texts = (
            f"(Sparsity) Found {len(eligible)} layer(s) eligible to use sparse tactics: ",
            f"(Sparsity) Chose {len(chosen)} layer(s) using sparse tactics: ",
        )
    head = prefix(style, verbose=not old) + (" (foreignNode) " if foreign else "") + bare
    return [head + text + ", ".join(names) for text, names in zip(texts, (eligible, chosen), strict=True)]


def lists(log: SparsityLog) -> tuple[list[str] | None, list[str] | None]:
    return tuple(None if found is None else list(found.names) for found in (log.eligible, log.chosen))  # type: ignore[return-value]


EXCERPT_A = """\
[03/23/2021-00:14:05] [I] [TRT] (Sparsity) Layers eligible for sparse math: conv1, conv2, conv3
[03/23/2021-00:14:05] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: conv2, conv3
"""
EXCERPT_B = """\
[TensorRT] INFO: (Sparsity) Layers eligible for sparse math: Conv_0
[TensorRT] INFO: (Sparsity) TRT inference plan picked sparse implementation for layers:
"""
VIT_NODES = (
    "51 69 83 93 107 125 139 149 163 181 195 205 219 237 251 261 275 293 307 317 331 349 363 373 387 405 419 429 443 "
    "461 475 485 499 517 531 541 555 573 587 597 611 629 643 653 667 685 699 709"
)
VIT = ["Conv_22", *(f"MatMul_{number}" for number in VIT_NODES.split()), "Gemm_725"]
STAMP_C = "[07/19/2022-11:58:20] [I] [TRT] (Sparsity) "
EXCERPT_C = (
    f"{STAMP_C}Layers eligible for sparse math: {', '.join(VIT)}\n"
    f"{STAMP_C}TRT inference plan picked sparse implementation for layers:\n"
)
EXCERPT_D = """\
[07/19/2022-11:08:35] [I] [TRT] (Sparsity) Layers eligible for sparse math: Conv_3 + Relu_4, Conv_8, Conv_7 + Add_9 + Relu_10, Conv_11 + Relu_12, Conv_15 +
Add_16 + Relu_17, Conv_18 + Relu_19, Conv_22 + Add_23 + Relu_24, Conv_25 + Relu_26, Conv_30, Conv_29 + Add_31 + Relu_32, Conv_33 + Relu_34, Conv_37 + Add_38
 + Relu_39, Conv_40 + Relu_41, Conv_44 + Add_45 + Relu_46, Conv_47 + Relu_48, Conv_51 + Add_52 + Relu_53, Conv_54 + Relu_55, Conv_59, Conv_58 + Add_60 + Rel
u_61, Conv_62 + Relu_63, Conv_66 + Add_67 + Relu_68
"""  # noqa: E501 (as it was pasted)
RESNEXT = [
    "Conv_3 + Relu_4", "Conv_8", "Conv_7 + Add_9 + Relu_10", "Conv_11 + Relu_12", "Conv_15 + Add_16 + Relu_17",
    "Conv_18 + Relu_19", "Conv_22 + Add_23 + Relu_24", "Conv_25 + Relu_26", "Conv_30", "Conv_29 + Add_31 + Relu_32",
    "Conv_33 + Relu_34", "Conv_37 + Add_38 + Relu_39", "Conv_40 + Relu_41", "Conv_44 + Add_45 + Relu_46",
    "Conv_47 + Relu_48", "Conv_51 + Add_52 + Relu_53", "Conv_54 + Relu_55", "Conv_59", "Conv_58 + Add_60 + Relu_61",
    "Conv_62 + Relu_63", "Conv_66 + Add_67 + Relu_68",
]  # fmt: skip
EXCERPT_E = (
    "[08/05/2024-12:06:54] [I] [TRT] (Sparsity) Layers eligible for sparse math: MatMul_401, Conv_619 + Relu_620, "
    "Conv_622 + Relu_623, Conv_235 + Relu_236, Conv_626, Conv_239, Conv_621 + Add_627 + Relu_628\n"
)
EXCERPT_F = """\
[09/16/2022-09:55:37] [I] [TRT] (Sparsity) Layers eligible for sparse math:
[09/16/2022-09:55:37] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers:
"""
EXCERPT_G = """\
[07/07/2026-06:14:38] [TRT] [V]  (foreignNode) (Sparsity) Found 1 layer(s) eligible to use sparse tactics: node_linear
[07/07/2026-06:14:38] [TRT] [V]  (foreignNode) (Sparsity) Chose 0 layer(s) using sparse tactics:
[07/07/2026-06:14:38] [TRT] [V] (Sparsity) Found 2 layer(s) eligible to use sparse tactics: node_conv2d + node_relu, node_conv2d_1 + node_relu_1
[07/07/2026-06:14:38] [TRT] [V] (Sparsity) Chose 0 layer(s) using sparse tactics:
"""  # noqa: E501 (as it was written)
EXCERPT_I = """\
(Sparsity) Found 39 layer(s) eligible to use sparse tactics
(Sparsity) Chose 0 layer(s) using sparse tactics
"""
EXCERPT_J = (
    "[TRT] [V]  (foreignNode)   64, 0.0237376, 3.64700, 0.56798, sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x…"
)
MISSING = "lists eligible layers, but the list of chosen ones after it is missing"


@pytest.mark.parametrize(
    ("text", "eligible", "chosen", "problem"),
    [
        (EXCERPT_A, ["conv1", "conv2", "conv3"], ["conv2", "conv3"], ""),
        (EXCERPT_B, ["Conv_0"], [], ""),
        (EXCERPT_C, VIT, [], ""),
        (EXCERPT_D, RESNEXT, None, MISSING),
        (
            EXCERPT_E,
            [
                "MatMul_401",
                "Conv_619 + Relu_620",
                "Conv_622 + Relu_623",
                "Conv_235 + Relu_236",
                "Conv_626",
                "Conv_239",
                "Conv_621 + Add_627 + Relu_628",
            ],
            None,
            MISSING,
        ),
        (EXCERPT_F, [], [], ""),
        (EXCERPT_G, ["node_linear", "node_conv2d + node_relu", "node_conv2d_1 + node_relu_1"], [], ""),
        (
            EXCERPT_G.replace("07/07/2026-06:14:38", "04/25/2026-00:43:37"),  # excerpt H
            ["node_linear", "node_conv2d + node_relu", "node_conv2d_1 + node_relu_1"],
            [],
            "",
        ),
        (EXCERPT_I, [], [], "39 layers are eligible, but it gives no names"),
        (EXCERPT_J, None, None, ""),
    ],
    ids="ABCDEFGHIJ",
)
def test_public_excerpts(text: str, eligible: list[str] | None, chosen: list[str] | None, problem: str) -> None:
    log = builder_log.parse(text)
    assert lists(log) == (eligible, chosen)
    assert problem in "".join(log.problems)
    assert bool(log.problems) == bool(problem)
    assert not log.warnings


def test_excerpt_c_as_it_was_pasted_wraps_inside_names() -> None:
    first, rest = EXCERPT_C.split("\n", 1)
    width = first.index("MatMul_125, Mat") + len("MatMul_125, Mat")
    wrapped = "\n".join(first[start : start + width] for start in range(0, len(first), width))
    assert "Mat\nMul" in wrapped
    assert lists(builder_log.parse(f"{wrapped}\n{rest}")) == (VIT, [])


def test_a_list_without_names_says_nothing_of_single_layers() -> None:
    log = builder_log.parse(EXCERPT_I)
    assert log.eligible == LayerList((), 39, is_complete=False)
    assert log.chosen == LayerList((), 0, is_complete=True)


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


def test_verbose_messages_are_recognised_without_a_sparsity_line() -> None:
    for message in (EXCERPT_J, "[V] [TRT] Registering layer: a for ONNX node: a", "Tactic: 0x1 Time: 0.1"):
        assert builder_log.parse(message).is_verbose
    assert not builder_log.parse(EXCERPT_A).is_verbose


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


# A node's name may hold nearly anything; TensorRT's separators are the only thing that cannot be told from a name.
WORD = st.text("abXYZ019_/.:-[]{}()<>@#~é", min_size=1, max_size=18).filter(
    lambda word: not word.startswith(("PWN", "(S", "(f", "["))
)
SPACED = st.sampled_from(["node_linear [profile 1]", "(Unnamed Layer* 1) [Convolution]", "{ForeignNode[/a/b.../c d]}"])
NAME = st.lists(WORD | SPACED, min_size=1, max_size=3).map(" + ".join)
NAMES = st.lists(NAME, max_size=9, unique=True)
PREFIXED = st.sampled_from(sorted(set(PREFIXES) - {"bare"}))


@st.composite
def logs(draw: st.DrawFn, styles: st.SearchStrategy[str]) -> tuple[list[str], list[str], list[str]]:
    """Lines of a log with repeated pairs and noise between them; the lists that have to be read from it."""
    old = draw(st.booleans())
    lines: list[str] = []
    foreign: list[tuple[list[str], list[str]]] = []
    last: tuple[list[str], list[str]] = ([], [])

    def noise() -> None:
        for _ in range(draw(st.integers(0, 3))):
            message = draw(st.sampled_from(NOISE)).format(n=draw(st.integers(0, 999)))
            lines.append(prefix(draw(styles), verbose=True) + message)

    for _ in range(draw(st.integers(1, 3))):
        eligible = draw(NAMES)
        chosen = [name for name in eligible if draw(st.booleans())]
        is_foreign = not old and draw(st.booleans())
        noise()
        first, second = pair(eligible, chosen, draw(styles), old=old, foreign=is_foreign)
        lines.append(first)
        noise()
        lines.append(second)
        if is_foreign:
            foreign.append((eligible, chosen))
        else:
            last = (eligible, chosen)
    noise()
    assume(any(last) or foreign)
    united = [list(dict.fromkeys(name for found in (*foreign, last) for name in found[index])) for index in range(2)]
    return lines, united[0], united[1]


@given(logs(PREFIXED))
@settings(deadline=None)
def test_any_log_with_prefixes_is_read_exactly(log: tuple[list[str], list[str], list[str]]) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse("\n".join(lines))
    assert lists(found) == (eligible, chosen)
    assert not found.problems


@given(logs(PREFIXED), st.integers(24, 160), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_log_is_read_exactly_wherever_a_terminal_wraps_it(
    log: tuple[list[str], list[str], list[str]], width: int, stripped: bool
) -> None:
    lines, eligible, chosen = log
    pieces = [line[start : start + width] for line in lines for start in range(0, len(line), width)]
    text = "\n".join(piece.rstrip() if stripped else piece for piece in pieces)
    assert lists(builder_log.parse(text)) == (eligible, chosen)


@given(logs(st.sampled_from(sorted(PREFIXES))))
@settings(max_examples=300, deadline=None)
def test_bare_messages_between_others_are_read_exactly_or_the_doubt_is_told(
    log: tuple[list[str], list[str], list[str]],
) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse("\n".join(lines))
    assert lists(found) == (eligible, chosen) or found.problems


@given(logs(st.just("bare")))
@settings(deadline=None)
def test_messages_at_hand_one_by_one_leave_no_doubt(log: tuple[list[str], list[str], list[str]]) -> None:
    lines, eligible, chosen = log
    found = builder_log.parse_messages(lines)
    assert lists(found) == (eligible, chosen)
    assert not found.problems


@given(NAMES.filter(lambda names: len(names) > 1), st.data())
@example(["a", "b"], None)
def test_a_list_that_is_cut_is_never_taken_for_whole(names: list[str], data: st.DataObject | None) -> None:
    found, _ = pair(names, [], "python")
    start = found.index("tactics: ") + len("tactics: ")
    # Cut before the last separator: with all separators there, the number of names is right and nothing can be told.
    end = found.rindex(", ") if data is None else data.draw(st.integers(start, found.rindex(", ")))
    log = builder_log.parse(found[:end])
    assert log.eligible is not None
    assert not log.eligible.is_complete
    assert log.problems


@given(st.text("(Sparsity) Found1layer:,+ tacs\n[]TRV-", max_size=300))
@example("(Sparsity) Found 1 layer(s) eligible to use sparse tactics:\n\n")
@example("")
def test_no_text_is_too_strange(text: str) -> None:
    assert isinstance(builder_log.parse(text), SparsityLog)
