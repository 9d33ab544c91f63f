"""Meanings that changed between opsets, and operators without a case of the onnx package: against ONNX Runtime."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.onnx_to_fx.check import check_conversion
from prox24_export.passes.onnx_to_fx.convert import ConvertToFx
from tests.graphs import model, normal, opened

CASES = {
    "BatchNormalization before 14": (9, "float[2,3,4] x", "y = BatchNormalization<epsilon = 0.01>(x, c, d, e, v)"),
    "Clip before 11": (9, "float[2,3] x", "y = Clip<min = -0.5>(x)"),
    "Clip between numbers": (13, "float[2,3] x", "y = Clip(x, least, most)"),
    "Clip with bounds that cross": (13, "float[2,3] x", "y = Clip(x, most, least)"),
    "Clip of integers": (13, "float[2,3] x", "i = Cast<to = 7>(x) j = Clip(i, none, one) y = Cast<to = 1>(j)"),
    "Clip with a fed bound": (13, "float[2,3] x, float low", "h = Constant<value = float {0.5}>() y = Clip(x, low, h)"),
    "Dropout before 12": (9, "float[2,3] x", "y = Dropout<ratio = 0.3>(x)"),
    "Gemm without C": (11, "float[4,3] x", "y = Gemm<transA = 1, alpha = 0.5>(x, w)"),
    "GlobalLpPool": (17, "float[2,3,4] x", "y = GlobalLpPool<p = 1>(x)"),
    "GRU, backwards": (14, "float[5,2,4] x", 'y, l = GRU<hidden_size=2, linear_before_reset=1, direction="reverse">(x, gw, gr, gb)'),  # noqa: E501
    "GRU, both ways": (14, "float[5,2,4] x", 'y = GRU<hidden_size=2, linear_before_reset=1, direction="bidirectional">(x, gw2, gr2)'),  # noqa: E501
    "LSTM, both ways": (9, "float[5,2,4] x", 'a, h, y = LSTM<hidden_size=2, direction="bidirectional">(x, lw2, lr2)'),
    "LogSoftmax before 13": (11, "float[2,3,4] x", "y = LogSoftmax(x)"),
    "Pad before 11": (10, "float[2,3] x", 'y = Pad<mode = "reflect", pads = [0, 2, 1, 0]>(x)'),
    "Pad that crops": (17, "float[5,4] x", "p = Constant<value = int64[4] {-1, 0, 2, -2}>() y = Pad(x, p)"),
    "ReduceMean before 18": (13, "float[2,3] x", "y = ReduceMean<axes = [-1], keepdims = 0>(x)"),
    "ReduceSum before 13": (11, "float[2,3] x", "y = ReduceSum<axes = [0]>(x)"),
    "Resize before 11": (10, "float[1,1,3,4] x", 'y = Resize<mode = "linear">(x, s)'),
    "Resize of four axes": (13, "float[1,1,3,4] x", 'y = Resize<mode = "cubic">(x, , s)'),
    "RNN, backwards": (14, "float[5,2,4] x", 'y = RNN<hidden_size = 8, direction = "reverse">(x, gw3, gr3)'),
    "SimplifiedLayerNormalization": (17, "float[2,3] x", "y = SimplifiedLayerNormalization(x, c)"),
    "Slice before 10": (9, "float[5,4] x", "y = Slice<starts = [-3, 1], ends = [9999, -1]>(x)"),
    "Softmax before 13": (11, "float[2,3,4] x", "y = Softmax(x)"),
    "Split before 13": (11, "float[2,6] x", "y, z = Split<axis = 1, split = [2, 4]>(x)"),
    "Split in equal parts": (9, "float[2,6] x", "y, z = Split<axis = 1>(x)"),
    "Split in unequal parts": (18, "float[2,5] x", "y, z = Split<axis = 1, num_outputs = 2>(x)"),
    "Squeeze and Unsqueeze before 13": (11, "float[2,1,3] x", "a = Squeeze<axes = [1]>(x) y = Unsqueeze<axes = [0, 3]>(a)"),  # noqa: E501
    "TopK in 10": (10, "float[2,5] x", "two = Constant<value = int64[1] {2}>() y, i = TopK(x, two)"),
    "Upsample in 7": (7, "float[1,1,3,4] x", 'y = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]>(x)'),
    "Upsample in 9": (9, "float[1,1,3,4] x", 'y = Upsample<mode = "linear">(x, s)'),
    "a padded average of whole windows": (19, "float[1,2,7,6] x", "y = AveragePool<kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,2], ceil_mode=1, count_include_pad=1>(x)"),  # noqa: E501
    "a padded maximum of whole windows": (12, "float[1,2,7,6] x", "y = MaxPool<kernel_shape=[3,2], pads=[1,0,1,1], strides=[2,2], ceil_mode=1>(x)"),  # noqa: E501
    "a transposed convolution of a given size": (11, "float[1,2,3,3] x", 'y = ConvTranspose<strides=[2,2], output_shape=[5,6], auto_pad="SAME_UPPER">(x, k)'),  # noqa: E501
    "a transposed convolution padded beyond": (11, "float[1,2,3,3] x", "y = ConvTranspose<strides=[2,2], pads=[1,0,0,1], output_padding=[1,1]>(x, k, b3)"),  # noqa: E501
    "a convolution padded to the same size": (11, "float[1,2,5,6] x", 'y = Conv<strides=[2,2], auto_pad="SAME_LOWER">(x, k2)'),  # noqa: E501
}  # fmt: skip
STORED = {
    "b3": normal(3),
    "c": normal(3),
    "d": normal(3, seed=1),
    "e": normal(3, seed=2),
    "gb": normal(1, 12),
    "gr": normal(1, 6, 2),
    "gr2": normal(2, 6, 2),
    "gr3": normal(1, 8, 8),
    "gw": normal(1, 6, 4),
    "gw2": normal(2, 6, 4),
    "gw3": normal(1, 8, 4),
    "most": np.array(0.5, np.float32),
    "k": normal(2, 3, 2, 2),
    "k2": normal(4, 2, 2, 3),
    "least": np.array(-0.25, np.float32),
    "lr2": normal(2, 8, 2),
    "lw2": normal(2, 8, 4),
    "none": np.array(0),
    "one": np.array(1),
    "s": np.array([1, 1, 2, 1.5], np.float32),
    "v": normal(3, seed=3) ** 2,
    "w": normal(4, 5),
}


def opened_case(name: str, folder: Path) -> OnnxGraph:
    """The case as a model, with the stored tensors that its nodes read."""
    opset, inputs, body = CASES[name]
    read = set(re.findall(r"\w+", "".join(re.findall(r"\(.*?\)", body))))
    outputs = "float y, float z" if "y, z =" in body else "float y"
    used = {key: value for key, value in STORED.items() if key in read}
    proto = model(f"g ({inputs}) => ({outputs}) {{ {body} }}", used, opset=opset)
    for output in proto.graph.output:  # of whatever rank
        output.type.tensor_type.ClearField("shape")
    return opened(proto, folder)


@pytest.mark.parametrize("name", CASES)
def test_a_meaning_of_another_opset_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    graph = opened_case(name, tmp_path)
    feeds = {value.name: normal(*[int(size or 1) for size in value.shape or ()]) for value in graph.inputs}
    check_conversion(ConvertToFx().call(graph=graph), graph, feeds)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_sizes_are_rounded_as_onnx_runtime_rounds_them(mode: str, coordinates: str, tmp_path: Path) -> None:
    """It multiplies in float32: 10 by 0.7 are 7, of which the stored scale 0.699999988 falls short."""
    body = f'Resize<mode = "{mode}", coordinate_transformation_mode = "{coordinates}">'
    text = f"""g (float[1,1,10,3] a, float[1,1,100,17] b) => (float[1,1,M,N] y, float[1,1,P,Q] z) {{
        y = {body}(a, , s) z = {body}(b, , t) }}"""
    scales = {"s": np.array([1, 1, 0.7, 5 / 3], np.float32), "t": np.array([1, 1, 0.29, 81 / 17], np.float32)}
    graph = opened(model(text, scales), tmp_path)
    feeds = {"a": normal(1, 1, 10, 3), "b": normal(1, 1, 100, 17)}
    check_conversion(converted := ConvertToFx().call(graph=graph), graph, feeds)
    sizes = [tuple(value.shape[2:]) for value in converted.module(*map(torch.from_numpy, feeds.values()))]
    assert sizes == [(7, 5), (29, 81)]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own class
    """Notes the number of entries that the largest result of torch has, which need not be stored one by one."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.entries = max(self.entries, result.numel() if isinstance(result, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize(
    "body",
    [
        "y = AveragePool<kernel_shape = [90, 90], strides = [90, 90], ceil_mode = 1, count_include_pad = 1>(x)",
        "y = AveragePool<kernel_shape = [90, 2], strides = [90, 2], pads = [1, 0, 0, 1], ceil_mode = 1>(x)",
        "y = MaxPool<kernel_shape = [90, 90], strides = [90, 90], ceil_mode = 1>(x)",
        "y = LpPool<kernel_shape = [90, 90], strides = [90, 90], ceil_mode = 1>(x)",
    ],
)
def test_a_pool_over_everything_stores_nothing_for_what_its_kernel_has_beyond_the_data(
    body: str, tmp_path: Path
) -> None:
    graph = opened(model(f"g (float[1,2,7,6] x) => (float[1,2,1,M] y) {{ {body} }}", opset=19), tmp_path)
    converted, feeds = ConvertToFx().call(graph=graph), {"x": normal(1, 2, 7, 6)}
    check_conversion(converted, graph, feeds)
    with Largest() as seen:  # type: ignore[no-untyped-call] # torch's own class
        converted.module(torch.from_numpy(feeds["x"]))
    assert 0 < seen.entries <= 4 * 2 * 7 * 6
