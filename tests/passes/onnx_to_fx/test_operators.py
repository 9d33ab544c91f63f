"""Every operator of the table: the onnx package's own cases, and gradients against finite differences."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from onnx import numpy_helper
from torch import Tensor

from prox24_export.passes.graph.arrays import Array
from prox24_export.passes.onnx_to_fx.check import evaluate
from prox24_export.passes.onnx_to_fx.convert import convert_model
from prox24_export.passes.onnx_to_fx.steps import PAIR
from prox24_export.passes.onnx_to_fx.table import TABLE, NotDifferentiableError
from tests.graphs import model, normal

REFUSALS = {
    "torch has no arithmetic of these types": r"u?int(16|32|64|4|2)\b|float8|float4|string|sequence|optional",
    "older than ONNX Runtime promises to run": r"opset 1\)",
    "training, not inference": r"training_mode|BatchNormalization.*3 outputs",
    "sampling of another kind": "tf_crop_and_resize|antialias|align_corners of",
    "another recurrence than torch's": "linear_before_reset|LSTM.*8 inputs",
    "attention with a cache or a window": r"Attention.*(outputs|inputs|window_size)",
    "strings": "attribute value_string",
    "scales by blocks": "block_size",
    "positions as a second output": "MaxPool.*2 outputs",
    "the largest of nothing": r"am(ax|in)\(\)",
}
WITHOUT_A_CASE = {"GRU", "GlobalLpPool", "SimplifiedLayerNormalization", PAIR}


@dataclass
class Verdicts:
    """What came of the onnx package's cases, by operator or by name."""

    cases: int = 0  # that agree
    agree: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def cases() -> Iterator[tuple[Any, set[str]]]:
    """The onnx package's cases whose operators are all in the table."""
    from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 (seconds, and warnings of NumPy's)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        operators = {node.op_type for node in (case.model or onnx.ModelProto()).graph.node}
        if operators <= TABLE.keys():
            yield case, operators


def array(value: Any) -> Array:
    return np.array(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def tensor(value: Any) -> Tensor:
    plain = array(value)
    if plain.dtype.name == "bfloat16":
        return torch.from_numpy(plain.astype(np.float32)).bfloat16()
    return torch.from_numpy(plain)


def expect_equal(found: Sequence[Tensor], expected: Sequence[Any], case: Any) -> None:
    """Values within the case's tolerance; shapes and types exactly."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, map(tensor, expected), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        narrow = {torch.float16: 1e-2, torch.bfloat16: 3e-2}.get(theirs.dtype, 0)
        torch.testing.assert_close(ours, theirs, rtol=max(case.rtol, narrow), atol=max(case.atol, 1e-6), equal_nan=True)


def with_constants(case: Any, inputs: Sequence[Any], kept: int) -> onnx.ModelProto:
    """The case's model, all inputs but the first `kept` stored in it."""
    stored = onnx.ModelProto()
    stored.CopyFrom(case.model)
    named = list(stored.graph.input)
    del stored.graph.input[kept:]
    for value, given in list(zip(named, inputs, strict=True))[kept:]:
        tensor = given if isinstance(given, onnx.TensorProto) else numpy_helper.from_array(np.array(given))
        stored.graph.initializer.add().CopyFrom(tensor)
        stored.graph.initializer[-1].name = value.name
    return stored


def run(case: Any, kept: int | None) -> None:
    """Runs a case, all its inputs but the first `kept` stored in the model."""
    for inputs, outputs in case.data_sets:
        count = len(inputs) if kept is None else kept
        converted = convert_model(ir.from_proto(with_constants(case, inputs, count)), widen=False)
        expect_equal(evaluate(converted, [tensor(value) for value in inputs[:count]]), outputs, case)


def verdicts(kept: int | None) -> Verdicts:
    result = Verdicts()
    for case, operators in cases():
        try:
            run(case, kept)
            result.agree.update(operators)
            result.cases += 1
        except NotDifferentiableError as error:
            result.refused[case.name] = str(error)
        except (AssertionError, TypeError) as error:
            result.wrong[case.name] = str(error)
    return result


@pytest.mark.parametrize("kept", [None, 1, 0], ids=["all inputs fed", "one input fed", "all inputs stored"])
def test_every_case_of_the_onnx_package_agrees_or_is_refused_and_most_agree(kept: int | None) -> None:
    found = verdicts(kept)
    assert found.wrong == {}
    unexplained = {
        name: sentence
        for name, sentence in found.refused.items()
        if not any(re.search(pattern, sentence) for pattern in REFUSALS.values())
    }
    assert unexplained == {}
    assert all(sentence.startswith("not differentiable here: operator ") for sentence in found.refused.values())
    assert found.cases > 3 * len(found.refused)
    assert TABLE.keys() - found.agree.keys() == WITHOUT_A_CASE


GRADIENTS: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "Abs": ("y = Abs(a)", [(3, 4)]),
    "Add": ("y = Add(a, b)", [(3, 4), (4,)]),
    "Attention": ("y = Attention<is_causal = 1>(a, b, c)", [(1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4)]),
    "RotaryEmbedding": ("y = RotaryEmbedding(a, b, c)", [(1, 2, 3, 4), (1, 3, 2), (1, 3, 2)]),
    "AveragePool": ("y = AveragePool<kernel_shape = [3, 3], pads = [1, 0, 1, 1], ceil_mode = 1>(a)", [(1, 2, 6, 5)]),
    "BatchNormalization": ("y = BatchNormalization(a, b, c, mean, var)", [(2, 3, 4), (3,), (3,)]),
    "Clip": ("b = Clip(a, half, last) y = Clip(b, half)", [(3, 4)]),
    "Concat": ("y = Concat<axis = 1>(a, b)", [(2, 3), (2, 2)]),
    "Conv": ("y = Conv<pads = [1, 0], strides = [2], group = 2>(a, b, c)", [(2, 4, 7), (2, 2, 3), (2,)]),
    "ConvTranspose": ("y = ConvTranspose<strides = [2, 1]>(a, b, c)", [(1, 2, 3, 3), (2, 3, 2, 2), (3,)]),
    "CumSum": ("y = CumSum(a, one)", [(3, 4)]),
    "DepthToSpace": ("y = DepthToSpace<blocksize = 2>(a)", [(1, 4, 2, 2)]),
    "Div": ("y = Div(a, b)", [(3, 4), (3, 1)]),
    "Einsum": ('y = Einsum<equation = "bij, jk -> bik">(a, b)', [(2, 3, 4), (4, 2)]),
    "Elu": ("y = Elu(a)", [(3, 4)]),
    "Erf": ("y = Erf(a)", [(3, 4)]),
    "Exp": ("y = Exp(a)", [(3, 4)]),
    "Expand": ("y = Expand(a, shape)", [(2, 1)]),
    "Gather": ("y = Gather<axis = 1>(a, index)", [(2, 5)]),
    "GatherElements": ("y = GatherElements<axis = 0>(a, pair)", [(3, 2)]),
    "GatherND": ("y = GatherND(a, pair)", [(3, 3)]),
    "Gelu": ('y = Gelu<approximate = "tanh">(a)', [(3, 4)]),
    "Gemm": ("y = Gemm<alpha = 0.5, beta = 2.0, transA = 1, transB = 1>(a, b, c)", [(4, 3), (5, 4), (5,)]),
    "GlobalAveragePool": ("y = GlobalAveragePool(a)", [(2, 3, 4)]),
    "GroupNormalization": ("y = GroupNormalization<num_groups = 2>(a, b, c)", [(2, 4, 3), (4,), (4,)]),
    "HardSwish": ("y = HardSwish(a)", [(3, 4)]),
    "InstanceNormalization": ("y = InstanceNormalization(a, b, c)", [(2, 3, 4), (3,), (3,)]),
    "LayerNormalization": ("y = LayerNormalization(a, b, c)", [(3, 4), (4,), (4,)]),
    "LeakyRelu": ("y = LeakyRelu(a)", [(3, 4)]),
    "LogSoftmax": ("y = LogSoftmax<axis = 0>(a)", [(3, 4)]),
    "LpNormalization": ("y = LpNormalization(a)", [(3, 4)]),
    "LRN": ("y = LRN<size = 3>(a)", [(1, 4, 2, 2)]),
    "LSTM": ("y = LSTM<hidden_size = 2>(a, b, c)", [(3, 1, 4), (1, 8, 4), (1, 8, 2)]),
    "GRU": ("y = GRU<hidden_size = 2, linear_before_reset = 1>(a, b, c)", [(3, 1, 4), (1, 6, 4), (1, 6, 2)]),
    "MatMul": ("y = MatMul(a, b)", [(2, 3, 4), (4, 2)]),
    "Max": ("y = Max(a, b)", [(3, 4), (4,)]),
    "MaxPool": ("y = MaxPool<kernel_shape = [2], pads = [0, 1], strides = [2]>(a)", [(1, 2, 7)]),
    "Mul": ("y = Mul(a, b)", [(3, 4), (3, 1)]),
    "Pad": ('y = Pad<mode = "reflect">(a, shape)', [(5,)]),
    "Pow": ("s = Mul(a, a) y = Pow(s, b)", [(3, 4), (4,)]),
    "PRelu": ("y = PRelu(a, b)", [(3, 4), (4,)]),
    "RMSNormalization": ("y = RMSNormalization(a, b)", [(3, 4), (4,)]),
    "ReduceL2": ("y = ReduceL2<keepdims = 0>(a, axes)", [(3, 4)]),
    "ReduceLogSumExp": ("y = ReduceLogSumExp(a, axes)", [(3, 4)]),
    "ReduceMax": ("y = ReduceMax(a, axes)", [(3, 4)]),
    "ReduceMean": ("y = ReduceMean(a, axes)", [(3, 4)]),
    "ReduceProd": ("y = ReduceProd(a, axes)", [(3, 4)]),
    "ReduceSum": ("y = ReduceSum(a)", [(3, 4)]),
    "GridSample": ("y = GridSample(a, b)", [(1, 2, 4, 4), (1, 3, 3, 2)]),
    "Resize": ('y = Resize<mode = "cubic">(a, , half3)', [(1, 5)]),
    "Relu": ("y = Relu(a)", [(3, 4)]),
    "ReverseSequence": ("y = ReverseSequence(a, axes)", [(4, 1)]),
    "ScatterElements": ("y = ScatterElements(a, pair, b)", [(3, 2), (2, 2)]),
    "ScatterND": ('y = ScatterND<reduction = "add">(a, column, b)', [(3, 2), (2, 2)]),
    "Sigmoid": ("y = Sigmoid(a)", [(3, 4)]),
    "Slice": ("y = Slice(a, one, axes, one, minus)", [(3, 4)]),
    "Softmax": ("y = Softmax(a)", [(3, 4)]),
    "Softplus": ("y = Softplus(a)", [(3, 4)]),
    "SpaceToDepth": ("y = SpaceToDepth<blocksize = 2>(a)", [(1, 1, 4, 2)]),
    "Split": ("c, d = Split<axis = 1>(a, shape) y = MatMul(c, d)", [(2, 4)]),
    "Sqrt": ("s = Mul(a, a) y = Sqrt(s)", [(3, 4)]),
    "Sub": ("y = Sub(a, b)", [(3, 4), (4,)]),
    "Swish": ("y = Swish(a)", [(3, 4)]),
    "Tanh": ("y = Tanh(a)", [(3, 4)]),
    "Tile": ("y = Tile(a, shape)", [(2, 3)]),
    "TopK": ("y, i = TopK(a, axes)", [(3, 4)]),
    "Transpose": ("y = Transpose<perm = [2, 0, 1]>(a)", [(2, 3, 4)]),
    "Trilu": ("y = Trilu(a)", [(3, 3)]),
    "Where": ("c = Greater(a, b) y = Where(c, a, b)", [(3, 4), (4,)]),
}
STORED = {
    "mean": normal(3, seed=7, dtype=np.float64),
    "var": normal(3, seed=8, dtype=np.float64) ** 2,
    "half": np.array(-0.5),
    "last": np.array(0.75),
    "half3": np.array([1.0, 1.5], np.float32),
    "one": np.array([1]),
    "minus": np.array([-1]),
    "axes": np.array([0]),
    "shape": np.array([2, 2]),
    "index": np.array([[0, -1, 3], [2, 2, 0]]),
    "pair": np.array([[0, 1], [2, 0]]),
    "column": np.array([[1], [2]]),
}


@pytest.mark.parametrize("operator", GRADIENTS)
def test_gradients_are_those_of_finite_differences(operator: str) -> None:
    text, shapes = GRADIENTS[operator]
    names = "abc"[: len(shapes)]
    declared = ", ".join(f"double {name}" for name in names)
    used = {name: value for name, value in STORED.items() if re.search(rf"\b{name}\b", text.partition("(")[2])}
    converted = convert_model(
        ir.from_proto(model(f"g ({declared}) => (double y) {{ {text} }}", used, opset=23)), widen=False
    )
    arguments = [
        torch.from_numpy(normal(*shape, seed=place, dtype=np.float64)).requires_grad_()
        for place, shape in enumerate(shapes)
    ]
    assert torch.autograd.gradcheck(converted.module, arguments)


def test_the_operators_whose_gradients_are_compared_are_in_the_table() -> None:
    assert GRADIENTS.keys() <= TABLE.keys()


def test_a_branch_that_is_not_taken_takes_no_part_in_a_gradient() -> None:
    """The exponential of 89 is infinite in float32, and no entry above 0 takes it."""
    text = "g (float[5] a) => (float[5] y, float[5] z) { y = Selu(a) z = Elu(a) }"
    module = convert_model(ir.from_proto(model(text)), widen=False).module
    a = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0], requires_grad=True)
    functions: tuple[Any, ...] = (F.selu, F.elu)
    for result, function in zip(module(a), functions, strict=True):
        (ours,) = torch.autograd.grad(result.sum(), a, retain_graph=True)
        (theirs,) = torch.autograd.grad(function(a).sum(), a)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrences_train_where_gradients_are_wanted(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN computes gradients of no others, and wants states whose entries lie one after the other."""
    name = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[operator]
    seen: list[tuple[bool, bool]] = []
    run = getattr(torch, name)

    def note(sequence: Tensor, state: Any, *args: Any, train: bool, **kwargs: Any) -> Any:
        states = state if isinstance(state, tuple) else (state,)
        seen.append((train, all(one.is_contiguous() for one in states)))
        return run(sequence, state, *args, train=train, **kwargs)

    monkeypatch.setattr(torch, name, note)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    more = ", linear_before_reset = 1" if operator == "GRU" else ""
    text = f"""g (float[3,2,4] a, float[1,1,2] h) => (float y) {{
        e = Expand(h, shape) y = {operator}<hidden_size = 2{more}>(a, w, r, , , e)
    }}"""
    stored = {"shape": np.array([1, 2, 2]), "w": normal(1, 2 * gates, 4), "r": normal(1, 2 * gates, 2)}
    module = convert_model(ir.from_proto(model(text, stored)), widen=False).module
    arguments = torch.randn(3, 2, 4), torch.randn(1, 1, 2)
    with torch.no_grad():
        plain = module(*arguments)
    trained = module(*arguments)
    assert seen == [(False, True), (True, True)]
    torch.testing.assert_close(plain, trained)
