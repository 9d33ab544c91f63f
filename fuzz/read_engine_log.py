"""A builder's log and an inspector's JSON: both are read, and a diagnosis is made of them, as a run does it."""

import json
from random import Random
from typing import Any

from fuzz.values import BytesMutation, pick_integer
from prox24_export.engines.diagnosis import builder_log, inspector
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.errors import InputError
from prox24_export.process.printable import make_printable

LONGEST = 1 << 14  # bytes of an input
BETWEEN = b"\n=== inspector ===\n"  # the log stands before it, the JSON behind it
LAYERS = (
    PrunedLayer("node_linear", "MatMul", 512, 256, 512),
    PrunedLayer("Conv_3", "Conv", 512, 64, 512, precision="int8"),
    PrunedLayer("conv2", "Conv", 36, 6, 4, precision="bf16", is_two_four=False),
    PrunedLayer("node_conv2d", "Conv", 512, 256, 512, precision="fp32"),
)
"""The pruned layers that are looked for; corpora name them."""
PIECES = (
    "(Sparsity) ",
    "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: ",
    "(Sparsity) Chose 1 layer(s) using sparse tactics: ",
    "(Sparsity) Found 9 layer(s) eligible to use sparse tactics",
    "(Sparsity) Layers eligible for sparse math: ",
    "(Sparsity) TRT inference plan picked sparse implementation for layers: ",
    "(foreignNode) ",
    "[08/05/2024-12:06:54] [V] [TRT] ",
    "[07/07/2026-06:14:38] [TRT] [V]  ",
    "[TensorRT] VERBOSE: ",
    "[X] (12:06:54) ",
    "\x1b[0;34m",
    "\r\n",
    "\x1e",
    "\\u001e",
    "node_linear",
    "Conv_3 + Relu_4",
    "conv2 || conv3",
    "PWN(PWN(a, b), c)",
    "{ForeignNode[conv1...node_linear]}",
    "ForeignNode {ForeignNode[conv1...conv3]} metadata: [ONNX Layer: conv2]\x1f[ONNX Layer: conv3]",
    "Registering layer: Conv_3 for ONNX node: conv2",
    "--------------- Timing Runner: node_linear (CaskGemm[0x80000009])",
    "Tactic Name: sm80_xmma_sparse_gemm Tactic: 0xd828f024626fa982 Time: 0.05",
    "node_linear Set Tactic Name: sm80_xmma_gemm Tactic: 0x028e842ce51fbd9d",
    "Tactic: 0x028e842ce51fbd9d Time: 0.0153",
    "(foreignNode) Autotuning op node_linear(key: 0xe5): [ONNX Layer: node_linear]",
    "(foreignNode)    0, 0.0065088, 1.00000, 0.00000, sm80_xmma_sparse_gemm, 0x4b,",
    "Skipping tactic 0x3 due to insuficient memory on requested size of 4 detected for tactic 4.",
    " + ",
    ", ",
    " [profile 1]",
    "_myl13_2",
    "99999999999999999999",
    "1e999",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    "",
    "gemm",
    "PluginV3",
    "Myelin",
    "Int8",
    "Half",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)
KEYS = (
    "Layers",
    "Name",
    "LayerType",
    "TacticName",
    "Metadata",
    "Inputs",
    "Outputs",
    "Weights",
    "Groups",
    "Type",
    "Format",
)


def check(data: bytes) -> None:
    """Reads a log as a text and as messages, and the inspector's JSON, and makes a diagnosis of them."""
    log, _, found = data.partition(BETWEEN)
    text = log.decode("utf-8", "replace")
    logs = (builder_log.parse(text), builder_log.parse_messages(text.split("\n")), None)
    engine, refused = None, None
    try:
        engine = inspector.parse(found.decode("utf-8", "replace"))
    except InputError as error:
        refused = error
    for one in logs:
        for allowed in (True, False):
            make_printable(diagnose(LAYERS, one, engine, allowed=allowed))
    if refused is not None:
        raise refused


def mutate(data: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    """Changes lines of the log, values of the JSON, or bytes."""
    if random.random() < 0.1:
        return mutate_bytes(data)
    log, _, found = data.partition(BETWEEN)
    if random.random() < 0.6:
        log = _change_log(log.decode("utf-8", "replace"), random).encode()
    else:
        found = _change_json(found, random, mutate_bytes)
    return log + BETWEEN + found if found or random.random() < 0.5 else log


def _change_log(log: str, random: Random) -> str:
    lines = log.split("\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(lines))
        line = lines[place]
        column = random.randrange(len(line) + 1)
        match random.choice(("piece", "piece", "number", "move", "double", "wrap", "cut", "drop")):
            case "piece":
                lines[place] = line[:column] + random.choice(PIECES) + line[column:]
            case "number":
                lines[place] = line[:column] + str(pick_integer(random)) + line[column + 1 :]
            case "move":
                lines.insert(random.randrange(len(lines)), lines.pop(place))
            case "double":
                lines.insert(place, line)
            case "wrap":
                width = random.choice((5, 20, 60, 80, 150))
                lines = [row[start : start + width] for row in lines for start in range(0, max(1, len(row)), width)]
            case "cut":
                lines[place] = line[:column] + line[column + random.randrange(40) :]
            case _:
                lines = [*lines[:place], *lines[place + 1 :]] or [""]
    return "\n".join(lines)


def _change_json(found: bytes, random: Random, mutate_bytes: BytesMutation) -> bytes:
    try:
        value = json.loads(found, strict=False)
    except (ValueError, RecursionError):
        return mutate_bytes(found)
    if random.random() < 0.15:
        return mutate_bytes(found)
    root = [value]
    for _ in range(random.choice((1, 1, 2, 4))):
        holders = list(_walk(root))
        holder = random.choice(holders)
        new = random.choice(
            (random.choice(VALUES), random.choice(holders), random.choice(PIECES), pick_integer(random))
        )
        copied = json.loads(json.dumps(new))  # a value that holds itself is no JSON
        if isinstance(holder, dict):
            keys = [*holder, random.choice(KEYS)]
            holder[random.choice(keys)] = copied
        elif holder:
            holder[random.randrange(len(holder))] = copied
        elif holder is not root:
            holder.append(copied)
    return json.dumps(root[0]).encode()[: LONGEST // 2]


def _walk(value: Any) -> Any:
    """Yields every list and every object in a value."""
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _walk(inner)
