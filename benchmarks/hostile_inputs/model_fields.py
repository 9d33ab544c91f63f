"""Fields of ONNX models: every kind of field with a value that it should not have, and graphs that are none."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from hostile_inputs.case import Case, make_dice
from hostile_inputs.commands import MODEL, read_model
from hostile_inputs.small_models import NAMES, make_model
from onnx import helper, numpy_helper

KIND = "model fields"
NUMBERS = (-1, 0, 1, 3, 7, 99, 2**31 - 1, -(2**31))
LONG_NUMBERS = (*NUMBERS, 2**31, 2**40, 2**63 - 1, -(2**63))
TEXTS = (
    "", " ", "x", "a", "y", "w", "no_such", "\x1b[31mred\x1b[0m", "\u202eevil\u2066", "\x00", "\r\nok", "\x9b2J",
    "é" * 300, "n" * 100_000, "../../etc/passwd", "%s%n{0}", "a/b\\c:d", "MatMul", "Loop", "\u2028", "com.microsoft",
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes one model: by a change with a name, or of random fields."""
    dice = make_dice(KIND, index)
    name = dice.choice(NAMES)
    proto = make_model(name)
    by_name = index % 3 == 0
    if by_name:
        how = CHANGES[(index // 3) % len(CHANGES)]
        how(proto, dice)
        said = (how.__doc__ or "").rstrip(".")
    else:
        said = "; ".join(_change_field(proto, dice) for _ in range(dice.choice((1, 1, 2, 3))))
    data = proto.SerializeToString()

    def build(folder: Path) -> None:
        (folder / MODEL).write_bytes(data)

    share = 0.0 if by_name and how is _huge else 0.4  # what runs takes the memory that it asks for, see SECURITY.md
    return Case(KIND, index, f"{said[:200]} ({name})", read_model(dice, share=share), build, may_be_valid=True)


def _change_field(proto: Message, dice: random.Random) -> str:
    """Changes one field somewhere in a model, and returns what was changed."""
    message = dice.choice(list(_list_messages(proto)))
    fields = [entry for entry in message.DESCRIPTOR.fields if entry.name not in {"doc_string", "metadata_props"}]
    present = [entry for entry, _ in message.ListFields()]
    entry = dice.choice(present if present and dice.random() < 0.75 else fields)
    name = f"{message.DESCRIPTOR.name}.{entry.name}"
    if _is_repeated(entry):
        return f"{name} {_change_list(message, entry, dice)}"
    if dice.random() < 0.2:
        message.ClearField(entry.name)
        return f"{name} cleared"
    if entry.message_type is not None:
        getattr(message, entry.name).SetInParent()
        return f"{name} made"
    value = _choose_value(entry, dice)
    setattr(message, entry.name, value)
    return f"{name} = {value!r:.40}"


def _is_repeated(entry: Any) -> bool:
    return bool(entry.is_repeated if hasattr(entry, "is_repeated") else entry.label == entry.LABEL_REPEATED)


def _change_list(message: Message, entry: Any, dice: random.Random) -> str:
    """Changes a repeated field: leaves it out, repeats, reverses, shortens or adds to it."""
    values = getattr(message, entry.name)
    kept = list(values)
    match dice.randrange(5):
        case 0:
            kept, said = [], "cleared"
        case 1:
            kept, said = kept[::-1], "reversed"
        case 2:
            kept, said = kept + kept[: dice.choice((1, 9))] * dice.choice((1, 1, 500)), "repeated"
        case 3 if kept:
            kept.pop(dice.randrange(len(kept)))
            said = "shortened"
        case _:
            if entry.message_type is not None:
                values.add()
                return "longer by one without fields"
            kept.insert(dice.randrange(len(kept) + 1), _choose_value(entry, dice))
            said = "longer"
    copies = [
        type(value).FromString(value.SerializeToString()) if hasattr(value, "CopyFrom") else value for value in kept
    ]
    message.ClearField(entry.name)
    getattr(message, entry.name).extend(copies)
    return said


def _choose_value(entry: Any, dice: random.Random) -> Any:
    kind = entry.cpp_type
    if kind == entry.CPPTYPE_STRING:
        text = dice.choice(TEXTS)
        return text.encode() if entry.type == entry.TYPE_BYTES else text
    if kind in {entry.CPPTYPE_FLOAT, entry.CPPTYPE_DOUBLE}:
        return dice.choice((float("nan"), float("inf"), -1.0, 3e38))
    if kind == entry.CPPTYPE_ENUM:
        return dice.choice(entry.enum_type.values).number
    if kind in {entry.CPPTYPE_UINT32, entry.CPPTYPE_UINT64}:
        return dice.choice((0, 1, 2**31, 2**32 - 1))
    return dice.choice(NUMBERS if kind == entry.CPPTYPE_INT32 else LONG_NUMBERS)


def _list_messages(message: Message) -> Iterator[Message]:
    yield message
    for entry, value in message.ListFields():
        if entry.message_type is not None:
            for part in value if _is_repeated(entry) else (value,):
                yield from _list_messages(part)


def _choose_weight(proto: onnx.ModelProto, dice: random.Random) -> onnx.TensorProto:
    return dice.choice(list(proto.graph.initializer))


def _cycle(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A cycle of nodes."""
    node = dice.choice(list(proto.graph.node))
    last = dice.choice(list(proto.graph.node)[-2:])
    if node.input:
        node.input[dice.randrange(len(node.input))] = last.output[0]


def _same_output(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Two nodes make one value."""
    node = dice.choice(list(proto.graph.node))
    node.output[0] = dice.choice(
        [*(value.name for value in proto.graph.input), *(n.output[0] for n in proto.graph.node)]
    )


def _missing_input(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A value from nowhere."""
    node = dice.choice([node for node in proto.graph.node if node.input])
    node.input[dice.randrange(len(node.input))] = dice.choice((*TEXTS, "gone"))


def _no_values(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Weights of NaN, infinities or the largest numbers."""
    tensor = _choose_weight(proto, dice)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[: dice.choice((1, 5, array.size))] = dice.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _other_shape(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A weight of another shape than its bytes have."""
    tensor = _choose_weight(proto, dice)
    shapes = ([], [0], [-1, 8], [-8, -8], [8], [2**31, 2], [2**62, 4], [1] * 200, [2**40], [0, 8], [8, 8, 8], [64])
    tensor.ClearField("dims")
    tensor.dims.extend(dice.choice(shapes))


def _other_type(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A weight of another type than its bytes have."""
    _choose_weight(proto, dice).data_type = dice.choice((0, *range(2, 24), 60, -1))


def _torn_weight(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A weight with too few or too many bytes."""
    tensor = _choose_weight(proto, dice)
    tensor.raw_data = dice.choice((b"", tensor.raw_data[:-1], tensor.raw_data * 2, b"\0" * dice.randrange(9)))


def _odd_opset(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Versions of operators that nobody has."""
    del proto.opset_import[:]
    for _ in range(dice.choice((0, 1, 2, 3))):
        version = dice.choice((0, -1, 1, 5, 99, 2**31, 2**62))
        proto.opset_import.append(helper.make_opsetid(dice.choice(("", "ai.onnx", "own", "com.microsoft")), version))


def _odd_version(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A version of the format that nobody has."""
    proto.ir_version = dice.choice((0, -1, 1, 2, 99, 2**31, 2**62))


def _odd_operator(proto: onnx.ModelProto, dice: random.Random) -> None:
    """An operator that there is not, or one with too few inputs."""
    node = dice.choice(list(proto.graph.node))
    node.op_type = dice.choice(("If", "Loop", "Scan", "Einsum", "GRU", "Resize", "Where", "Pad", "TopK", *TEXTS))
    node.domain = dice.choice(("", "", "own", "com.microsoft", "ai.onnx.ml", *TEXTS))


def _odd_attribute(proto: onnx.ModelProto, dice: random.Random) -> None:
    """An attribute that does not belong there, or has an impossible or huge value."""
    names = (
        "transA",
        "transB",
        "perm",
        "axis",
        "axes",
        "pads",
        "group",
        "strides",
        "kernel_shape",
        "alpha",
        "to",
        "value",
    )
    big = [2**62] * 3
    values = (
        -1,
        2**62,
        1e38,
        "text",
        [],
        big,
        [-1],
        [0, 0],
        [1] * 5000,
        ["a"],
        make_model().graph,
        _choose_weight(proto, dice),
    )
    node = dice.choice(list(proto.graph.node))
    try:
        made = helper.make_attribute(dice.choice(names), dice.choice(values))
    except ValueError:  # an empty list has no type
        made = onnx.AttributeProto(name=dice.choice(names), type=dice.randrange(14))
    node.attribute.extend([made] * dice.choice((1, 1, 2)))


def _odd_input(proto: onnx.ModelProto, dice: random.Random) -> None:
    """An input of a strange shape or type."""
    shapes = ([], [-1, 8], [0, 8], [2**62, 8], ["", 8], ["\x1b[2J", 8], [None, None], [1] * 100, [10**7, 10**5], [7, 7])
    kind = dice.choice((0, 1, 1, 1, 1, 6, 7, 8, 9, 10, 11, 14, 16, 21))
    named = dice.choice(("x", "x", "", "\x1b]0;t\x07", "w", "labels"))
    chosen = helper.make_tensor_value_info(named, kind, dice.choice(shapes))
    if dice.random() < 0.2:
        chosen = helper.make_tensor_sequence_value_info(named, 1, None)
    proto.graph.input[0].CopyFrom(chosen)


def _odd_output(proto: onnx.ModelProto, dice: random.Random) -> None:
    """An output that nobody makes, is there twice, or is missing."""
    outputs = proto.graph.output
    match dice.randrange(4):
        case 0:
            del outputs[:]
        case 1:
            outputs.append(outputs[0])
        case 2:
            outputs[0].name = dice.choice((*TEXTS, "x", "w"))
        case _:
            outputs.add(name=dice.choice(TEXTS))


def _recursion(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Functions that call themselves, each other, or double what they call."""
    count = dice.choice((1, 2, 30, 300))
    for place in range(count):
        called = f"F{(place + 1) % count if dice.random() < 0.5 else place + 1}"
        calls = [
            helper.make_node(called, ["p"], ["q"], domain="own"),
            helper.make_node(called, ["q"], ["r"], domain="own"),
        ]
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
        proto.functions.append(helper.make_function("own", f"F{place}", ["p"], ["r"], calls, opsets))
    proto.graph.node.append(helper.make_node("F0", [proto.graph.input[0].name], ["z"], domain="own"))


def _deep(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Branches within branches, or a long chain."""
    depth = dice.choice((3, 10, 20, 28))
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["o0"])], "g", [], [onnx.ValueInfoProto(name="o0")])
    for level in range(depth):
        name = f"o{level + 1}"
        node = helper.make_node(
            "If", ["flag"], [name], then_branch=graph, else_branch=graph if level < 8 else make_model().graph
        )
        graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name=name)])
    proto.graph.node.extend(graph.node)


def _chain(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A very long chain of nodes before a weight."""
    count, kind = dice.choice((50, 700, 5000)), dice.choice(("Identity", "Transpose", "Neg", "Relu"))
    names = ["w", *(f"w{place}" for place in range(count))]
    made = [helper.make_node(kind, [one], [two]) for one, two in itertools.pairwise(names)]
    nodes = [*made, *proto.graph.node]
    nodes[-1].input[-1] = names[-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _huge(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Small constants that describe huge values."""
    size = dice.choice((10**6, 10**9, 2**40, 2**62))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([size, 8], np.int64), "shape"))
    kind = dice.choice(("ConstantOfShape", "Expand", "Tile", "Range"))
    given = {"ConstantOfShape": ["shape"], "Expand": ["w", "shape"], "Tile": ["w", "shape"], "Range": ["shape"] * 3}
    node = helper.make_node(kind, given[kind], ["huge"])
    rest = [*proto.graph.node]
    rest[-1].input[-1] = "huge" if dice.random() < 0.7 else rest[-1].input[-1]
    del proto.graph.node[:]
    proto.graph.node.extend([node, *rest])


def _twice(proto: onnx.ModelProto, dice: random.Random) -> None:
    """Weights, nodes or inputs that are there twice."""
    part = dice.choice((proto.graph.initializer, proto.graph.node, proto.graph.input))
    part.extend([part[dice.randrange(len(part))]] * dice.choice((1, 3)))


def _sparse(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A sparse weight whose indices or shape are wrong."""
    values = numpy_helper.from_array(np.ones(2, np.float32), dice.choice(("w", "sp", "")))
    places = numpy_helper.from_array(np.array(dice.choice(([0, 1], [5, 5], [-1, 2**60])), np.int64), "")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, places, dice.choice(([4, 4], [2**40, 8], [-1], [])))
    )


def _wrong_weight(proto: onnx.ModelProto, dice: random.Random) -> None:
    """A weight that does not fit what it is multiplied with."""
    tensor = _choose_weight(proto, dice)
    shape = dice.choice(((5, 7), (8,), (3, 8, 8), (0, 8), (8, 0), (1, 1, 1, 1, 1)))
    tensor.CopyFrom(
        numpy_helper.from_array(np.ones(shape, dice.choice((np.float32, np.float64, np.int8))), tensor.name)
    )


CHANGES: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _cycle, _same_output, _missing_input, _no_values, _other_shape, _other_type, _torn_weight, _odd_opset,
    _odd_version, _odd_operator, _odd_attribute, _odd_input, _odd_output, _recursion, _deep, _chain, _huge, _twice,
    _sparse, _wrong_weight,
)  # fmt: skip
