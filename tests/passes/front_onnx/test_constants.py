"""The stored weight behind any chain of layout operators is found, as the matrix that ONNX Runtime computes."""

import itertools
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from prox24_export.passes.front_onnx.constants import ConstantOperand, resolve_constant
from prox24_export.passes.graph.arrays import Array
from tests.graphs import linears, model, normal, opened, run

AXES_ARE_INPUTS = 13  # opset from which Squeeze and Unsqueeze read their axes
OPERATORS = ("Identity", "Cast", "Transpose", "Reshape", "Flatten", "Unsqueeze", "Squeeze")


class Chain:
    """Layout operators on a stored weight, and the shape behind them.

    Attributes:
        proto: A product with what the operators make of the weight.
        shape: The shape behind the last operator.
    """

    def __init__(self, weight: Array, opset: int) -> None:
        self.proto = model("g (float[2,8] x) => (float[2,12] y) { y = MatMul(x, m) }", {"v0": weight}, opset=opset)
        self.shape = weight.shape
        self._opset = opset
        self._count = 0

    def add(self, operator: str, given: list[int] | None = None, **attributes: object) -> None:
        """Adds a node; `given` are axes or sizes, which are an input or an attribute."""
        inputs = [f"v{self._count}"]
        if given is not None and (operator == "Reshape" or self._opset >= AXES_ARE_INPUTS):
            inputs.append(f"i{self._count}")
            self.proto.graph.initializer.append(numpy_helper.from_array(np.array(given), inputs[1]))
        elif given is not None:
            attributes["axes"] = given
        self._count += 1
        node = helper.make_node(operator, inputs, [f"v{self._count}"], **attributes)  # type: ignore[arg-type]
        self.proto.graph.node.insert(self._count - 1, node)

    def end(self) -> None:
        """Makes a matrix [8, 12] of the result."""
        self.add("Reshape", [8, 12])
        self.proto.graph.node[-1].input[1] = f"v{self._count}"

    def draw(self, data: st.DataObject) -> None:
        """Adds one drawn operator."""
        rank, shape = len(self.shape), self.shape
        operator = data.draw(st.sampled_from(OPERATORS))
        match operator:
            case "Identity":
                self.add(operator)
            case "Cast":
                self.add(operator, to=onnx.TensorProto.FLOAT)
            case "Transpose":
                order = data.draw(st.permutations(range(rank)))
                self.add(operator, perm=order)
                self.shape = tuple(shape[axis] for axis in order)
            case "Reshape":
                first = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
                self.add(operator, [first, -1])
                self.shape = first, 96 // first
            case "Flatten":
                axis = data.draw(st.integers(-rank, rank))
                self.add(operator, axis=axis)
                self.shape = math.prod(shape[:axis]), math.prod(shape[axis:])
            case "Unsqueeze":
                axis = data.draw(st.integers(-rank - 1, rank))
                self.add(operator, [axis])
                self.shape = np.expand_dims(np.empty(shape, np.uint8), axis).shape
            case "Squeeze":
                ones = [axis for axis, size in enumerate(shape) if size == 1]
                axes = data.draw(st.none() | st.lists(st.sampled_from(ones), unique=True, min_size=1)) if ones else None
                self.add(operator, axes and [axis - rank * data.draw(st.booleans()) for axis in axes])
                self.shape = tuple(size for axis, size in enumerate(shape) if axis not in (axes or ones))


@pytest.mark.parametrize(
    "body",
    [
        "v = Squeeze(w, five)",
        "v = Squeeze(w)",
        "v = Unsqueeze(w, twice)",
        "v = Unsqueeze(w, many)",
        "v = Transpose<perm = [4]>(w)",
        "v = Reshape(w, five)",
    ],
)
def test_a_node_that_cannot_be_run_hides_the_weight(body: str, tmp_path: Path) -> None:
    axes = {"five": np.array([5]), "twice": np.array([0, 0]), "many": np.array([99])}
    weight = normal() if body == "v = Squeeze(w)" else normal(8, 12)
    proto = model(f"g (float[2,8] x) => (float[2,12] y) {{ {body} y = MatMul(x, v) }}", {"w": weight, **axes})
    assert linears(opened(proto, tmp_path)) == []


@settings(max_examples=60)
@given(st.data())
def test_the_layout_behind_a_chain_is_that_of_onnx_runtime(data: st.DataObject) -> None:
    weight = normal(*data.draw(st.sampled_from([(8, 12), (12, 8), (96,), (2, 4, 12), (3, 8, 1, 4)])))
    chain = Chain(weight, data.draw(st.sampled_from([11, 17])))
    for _ in range(data.draw(st.integers(0, 5))):
        chain.draw(data)
    chain.end()
    with TemporaryDirectory() as folder:
        graph = opened(chain.proto, Path(folder))
        (layer,) = linears(graph)
        found = graph.weight(layer).numpy()
    assert layer.weight == "v0"
    assert not graph.folded
    (y,) = run(chain.proto, {"x": np.eye(8, dtype=np.float32)[:2]})
    np.testing.assert_array_equal(y, found.T[:2])


def test_a_chain_longer_than_any_stack_is_followed() -> None:
    names = ["w", *(f"i{index}" for index in range(3000))]
    chain = "\n".join(f"{target} = Identity({source})" for source, target in itertools.pairwise(names))
    text = f"g (float[N,8] x) => (float[N,4] y) {{ {chain} y = MatMul(x, {names[-1]}) }}"
    proto = ir.from_proto(model(text, {"w": normal(8, 4)}))
    node = next(node for node in proto.graph if node.op_type == "MatMul")
    found = resolve_constant(node.inputs[1])
    assert isinstance(found, ConstantOperand)
    assert found.root.name == "w"
