"""A random transformer as an ONNX file with external data, of any size, written one tensor at a time."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENS, HEAD, CLASSES = 16, 64, 16
WIDENING = 2  # hidden units of the feed-forward part, over the width
ALIGNMENT, PIECE = 4096, 1 << 22  # bytes; entries that are drawn together
NORMS = ("norm1", "norm2")


class _Writer:
    """Collects nodes and initializers, and writes the external data."""

    def __init__(self, data: BinaryIO, seed: int) -> None:
        self.data, self.random = data, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def store(self, name: str, shape: tuple[int, ...], scale: float, mean: float = 0.0) -> str:
        """Draws a tensor and writes it to the external data."""
        self.data.write(bytes(-self.data.tell() % ALIGNMENT))
        offset, size = self.data.tell(), int(np.prod(shape))
        for start in range(0, size, PIECE):
            drawn = self.random.standard_normal(min(PIECE, size - start), dtype=np.float32)
            self.data.write((drawn * np.float32(scale) + np.float32(mean)).tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", Path(self.data.name).name), ("offset", offset), ("length", 4 * size)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def keep(self, name: str, array: Any) -> str:
        """Stores a small tensor in the model file."""
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Adds a node, whose only output has its name."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name


def count_block_bytes(width: int) -> int:
    """Bytes of the matrices of one block."""
    return 4 * (4 + 2 * WIDENING) * width * width


def make_transformer(path: Path, blocks: int, width: int, seed: int = 0) -> None:
    """Writes the model to `path`, and its weights to a file of the same name with `.data` behind it.

    Args:
        path: The model's file.
        blocks: Number of blocks: attention and a feed-forward part, each behind a layer norm.
        width: Width of the stream; a multiple of 64.
        seed: Of the weights.
    """
    with path.with_name(f"{path.name}.data").open("wb") as data:
        writer = _Writer(data, seed)
        for name, shape in (("split", [0, 0, width // HEAD, HEAD]), ("join", [0, 0, width]), ("tokens", [1])):
            writer.keep(name, np.array(shape, np.int64))
        writer.keep("scale", np.float32(HEAD**-0.5))
        stream = "x"
        for block in range(blocks):
            stream = _add_block(writer, f"block{block}.", stream, width)
        pooled = writer.add("ReduceMean", [stream, "tokens"], "pooled", keepdims=0)
        writer.add("MatMul", [pooled, writer.store("head", (width, CLASSES), width**-0.5)], "logits")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["samples", TOKENS, width])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["samples", CLASSES])]
    graph = helper.make_graph(writer.nodes, "transformer", inputs, outputs, writer.initializers)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def make_samples(path: Path, samples: int, width: int, seed: int = 1) -> None:
    """Writes samples for such a model, with a class for each."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, samples)
    np.savez(path, x=random.standard_normal((samples, TOKENS, width), dtype=np.float32), labels=labels)


def _add_block(writer: _Writer, block: str, stream: str, width: int) -> str:
    matrix = width**-0.5
    norms = {
        name: [
            writer.store(f"{block}{name}.scale", (width,), 0.02, 1.0),
            writer.store(f"{block}{name}.bias", (width,), 0.02),
        ]
        for name in NORMS
    }
    normed = writer.add("LayerNormalization", [stream, *norms["norm1"]], f"{block}normed1", axis=-1)
    heads = {}
    for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        weight = writer.store(f"{block}{name}.weight", (width, width), matrix)
        product = writer.add("MatMul", [normed, weight], f"{block}{name}")
        split = writer.add("Reshape", [product, "split"], f"{block}{name}.split")
        heads[name] = writer.add("Transpose", [split], f"{block}{name}.heads", perm=order)
    scores = writer.add("MatMul", [heads["query"], heads["key"]], f"{block}scores")
    scaled = writer.add("Mul", [scores, "scale"], f"{block}scaled")
    attention = writer.add("Softmax", [scaled], f"{block}attention", axis=-1)
    mixed = writer.add("MatMul", [attention, heads["value"]], f"{block}mixed")
    rows = writer.add("Transpose", [mixed], f"{block}rows", perm=[0, 2, 1, 3])
    joined = writer.add("Reshape", [rows, "join"], f"{block}joined")
    output = writer.store(f"{block}output.weight", (width, width), matrix)
    stream = writer.add("Add", [stream, writer.add("MatMul", [joined, output], f"{block}output")], f"{block}middle")
    normed = writer.add("LayerNormalization", [stream, *norms["norm2"]], f"{block}normed2", axis=-1)
    up = writer.store(f"{block}up.weight", (width, WIDENING * width), matrix)
    raised = writer.add("Gelu", [writer.add("MatMul", [normed, up], f"{block}up")], f"{block}raised")
    down = writer.store(f"{block}down.weight", (WIDENING * width, width), (WIDENING * width) ** -0.5)
    return writer.add("Add", [stream, writer.add("MatMul", [raised, down], f"{block}down")], f"{block}end")
