"""Excerpts of builder logs that were published, read as their authors read them."""

import pytest

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.builder_log import LayerList
from tests.engines.diagnosis.builder_logs import EXCERPT_G, MISSING, lists

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

EXCERPT_I = """\
(Sparsity) Found 39 layer(s) eligible to use sparse tactics
(Sparsity) Chose 0 layer(s) using sparse tactics
"""
EXCERPT_J = (
    "[TRT] [V]  (foreignNode)   64, 0.0237376, 3.64700, 0.56798, sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x…"
)


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


def test_verbose_messages_are_recognised_without_a_sparsity_line() -> None:
    for message in (EXCERPT_J, "[V] [TRT] Registering layer: a for ONNX node: a", "Tactic: 0x1 Time: 0.1"):
        assert builder_log.parse(message).is_verbose
    assert not builder_log.parse(EXCERPT_A).is_verbose
