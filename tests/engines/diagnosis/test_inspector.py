"""The inspector's JSON of TensorRT 8 to 11: what each layer is, and whether its tactic is sparse."""

import json
from pathlib import Path

import pytest

from prox24_export.engines.diagnosis import inspector, tactic_times
from prox24_export.errors import InputError

SPARSE = "sm80_xmma_fprop_avdt_sparse_int8int8_tilesize64x64x64_tapsperload3_threadspercta128_r3s3_u1v1_scalebias_relu"
DENSE = "sm70_xmma_fprop_conv1x1_i8f32_f32_f32_nchw_vect_c_4kcrs_vect_c_4_nchw_simt_small_batch_bias_relu"
GEMV = "sm50_xmma_cublas_gemvx_f16f16_f32_f32_tn_n_int32_unit_n_launch_param4x32x32_strided_unit_stride"


GOLDEN = Path(__file__).parent / "golden"


def sample(version: int) -> str:
    """Engine information as this version of TensorRT writes it, shortened."""
    return (GOLDEN / f"inspector_{version}.json").read_text(encoding="utf-8")


def test_tensorrt_8() -> None:
    first, second, third = inspector.parse(sample(8))
    assert (first.name, first.kind, first.tactic) == ("conv_1 + relu_1", "CaskConvolution", SPARSE)
    assert first.onnx_nodes == ("conv_1", "relu_1")
    assert (first.inputs, first.outputs, first.weights) == (("int8",), ("fp16",), "int8")
    assert first.is_sparse
    assert first.is_product
    assert not second.is_sparse
    assert (third.groups, third.onnx_nodes) == (32, ())


def test_tensorrt_10_shows_what_myelin_made() -> None:
    conv, reshape, gemm = inspector.parse(sample(10))
    assert not conv.is_sparse
    assert not reshape.is_product  # its kernel is named after operators
    assert not reshape.is_sparse
    assert (gemm.is_product, gemm.is_sparse) == (True, False)
    assert gemm.onnx_nodes == ("node_linear", "node_relu_2")
    assert (gemm.inputs, gemm.outputs) == (("fp16",), ("fp32",))


def test_tensorrt_11_has_keys_of_its_own() -> None:
    gemm, plugin, region = inspector.parse(sample(11))
    assert (gemm.inputs, gemm.outputs) == (("bf16",), ("fp8",))
    assert gemm.onnx_nodes == ("/a/MatMul", "/a/Add")
    assert gemm.is_sparse
    assert (plugin.is_plugin, plugin.is_product, plugin.is_region) == (True, False, False)
    assert (region.is_region, region.is_product) == (True, False)


def test_the_list_of_layers_and_a_single_layer_are_accepted_too() -> None:
    assert inspector.parse(json.dumps(json.loads(sample(8))["Layers"])) == inspector.parse(sample(8))
    assert inspector.parse(json.dumps(json.loads(sample(10))["Layers"][2])) == inspector.parse(sample(10))[2:]
    assert inspector.parse('{"Layers": [], "Bindings": []}') == ()


def test_separators_may_stand_unescaped_or_be_missing() -> None:
    raw = sample(10).replace("\\u001f", "\x1f").replace("\\u001e", "")
    conv, _, gemm = inspector.parse(raw)
    assert conv.onnx_nodes == ("node_conv2d", "node_relu")
    assert gemm.onnx_nodes == ("node_linear", "node_relu_2")


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("", ()),
        ("[ONNX Layer: a[Constant]]\x1e[ONNX Layer: b c]", ("a[Constant]", "b c")),
        ("[ONNX Layer: a][ONNX Layer: a]", ("a",)),
        ("[Something Else: a]\x1e[ONNX Layer: b]", ("b",)),
        ("[ONNX Layer: ]", ()),
    ],
)
def test_node_names_are_kept_whole(metadata: str, nodes: tuple[str, ...]) -> None:
    (layer,) = inspector.parse(json.dumps([{"Name": "x", "Metadata": metadata}]))
    assert layer.onnx_nodes == nodes


@pytest.mark.parametrize(
    ("tactic", "is_sparse"),
    [
        ("sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64_sptensor16x8x32", True),
        ("sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32_f32", True),
        (SPARSE, True),
        ("sm80_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x128_sptensor16x8x64", True),
        ("sm90_xmma_gemm_f16f16_spmma_tilesize128", True),
        ("cutlass_sp_gemm_f16", True),
        ("cutlass_80_spgemm_f16", True),
        (DENSE, False),
        (GEMV, False),
        ("sm80_xmma_fprop_avdt_dense_int8int8", False),
        ("some_transp_gemm_f16", False),
        ("some_transpgemm_f16", False),
        ("sm80_nonsparse_gemm", False),
        ("sm80_non_sparse_gemm", False),
        ("__myl_SparseToDense_0x46ec30df4d4f6d10cd7803e73bbd0428", False),
        ("", False),
    ],
)
def test_the_tactic_tells_and_nothing_else(tactic: str, is_sparse: bool) -> None:
    assert tactic_times.is_sparse(tactic) == is_sparse
    named = {"Name": "sparse_conv + sptensor", "LayerType": "CaskConvolution", "HasSparseWeights": 1}
    (layer,) = inspector.parse(json.dumps([{**named, "TacticName": tactic}]))
    assert layer.is_sparse == is_sparse


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 16 == 0", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major Int8 format", "int8"),
        ("FP8", "fp8"),
        ("Int32", "int32"),
        ("Int64", "int64"),
        ("Bool", "bool"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_types_are_told_from_prose(text: str, kind: str) -> None:
    (layer,) = inspector.parse(json.dumps([{"Name": "x", "Outputs": [{"Name": "y", "Format/Datatype": text}]}]))
    assert layer.outputs == (kind,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"Layers": ["conv_1 + relu_1", "conv_2"], "Bindings": ["x"]}',
            "LAYER_NAMES_ONLY.*profilingVerbosity=detailed",
        ),
        ("Layers:\nName: conv_1, LayerType: CaskConvolution", "expected the JSON of TensorRT's engine inspector"),
        ("", "expected the JSON of TensorRT's engine inspector"),
        ('{"layers": []}', r"list `Layers`; got keys \['layers'\]"),
        ("3", "list `Layers`; got int"),
        ('{"Layers": [{"LayerType": "gemm"}]}', "`Name` for every layer.*at 0"),
    ],
)
def test_what_is_no_engine_information_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        inspector.parse(text)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '[{"Name": "x", "Groups": ' + "1" * 10_000 + "}]"], ids=["deep", "long"]
)
def test_json_that_python_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected the JSON of TensorRT's engine inspector"):
        inspector.parse(text)


def test_inputs_that_are_no_list_are_none() -> None:
    (layer,) = inspector.parse('[{"Name": "x", "Inputs": 3, "Outputs": {"Name": "y"}}]')
    assert (layer.inputs, layer.outputs) == ((), ())
