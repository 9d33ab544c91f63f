"""What the stand-in builds: the ONNX model, which layers take sparse tactics, what log and inspector say of them."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ._enums import MAJOR, VERSION

MAGIC = b"ftrtstandin"
SMALL = 32  # reduction dimensions below it stay with the dense tactic, which is "faster"
SPARSE = "sm80_xmma_sparse_gemm_f16f16_f16f16_f16_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_sptensor16x8x32"
DENSE = "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_tensor16x8x16"
DENSE32 = "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x32x64_stage3_warpsize2x2x1_tensor16x8x8"


@dataclasses.dataclass(frozen=True)
class Built:
    """A layer of the engine.

    Attributes:
        name: Of the ONNX node.
        pattern: Whether its weight is 2:4 along K.
        half: Whether it is computed in fp16.
        k: Reduction dimension.
    """

    name: str
    pattern: bool
    half: bool
    k: int

    @property
    def eligible(self) -> bool:
        return self.pattern and self.half

    @property
    def chosen(self) -> bool:
        return self.eligible and self.k >= SMALL


def linears(model: onnx.ModelProto, *, half: bool) -> Iterator[Built]:
    """Linear layers with a constant weight."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        rows = weight if transposed else weight.T
        fits = rows.shape[1] % 4 == 0
        counts = np.count_nonzero(rows.reshape(-1, 4), axis=1) if fits else np.full(1, 4)
        yield Built(node.name, bool((counts <= 2).all()), half or weight.dtype == np.float16, rows.shape[1])


def sparsity_lines(layers: list[Built]) -> list[tuple[str, str]]:
    """Severity and message, in the wording of the generation."""
    eligible = [layer.name for layer in layers if layer.eligible]
    chosen = [layer.name for layer in layers if layer.chosen]
    if MAJOR == 8:
        return [
            ("INFO", f"(Sparsity) Layers eligible for sparse math: {', '.join(eligible)}"),
            ("INFO", f"(Sparsity) TRT inference plan picked sparse implementation for layers: {', '.join(chosen)}"),
        ]
    return [
        ("VERBOSE", f"(Sparsity) Found {len(eligible)} layer(s) eligible to use sparse tactics: {', '.join(eligible)}"),
        ("VERBOSE", f"(Sparsity) Chose {len(chosen)} layer(s) using sparse tactics: {', '.join(chosen)}"),
    ]


def plan_of(
    model: onnx.ModelProto, *, sparse: bool, half: bool, detailed: bool, profiles: list[dict[str, Any]]
) -> bytes:
    """A serialised engine."""
    layers = [dataclasses.asdict(layer) for layer in linears(model, half=half)]
    head = {"version": VERSION, "sparse": sparse, "detailed": detailed, "profiles": profiles, "layers": layers}
    text = json.dumps(head).encode()
    return b"".join((MAGIC, len(text).to_bytes(8, "big"), text, model.SerializeToString()))


def read_plan(plan: bytes) -> tuple[dict[str, Any], onnx.ModelProto] | None:
    """None where it is no engine, or one of another version."""
    if not plan.startswith(MAGIC):
        return None
    start = len(MAGIC) + 8
    end = start + int.from_bytes(plan[len(MAGIC) : start], "big")
    head: dict[str, Any] = json.loads(plan[start:end])
    return (head, onnx.load_from_string(plan[end:])) if head["version"] == VERSION else None


def inspector_json(head: dict[str, Any], inputs: list[str], outputs: list[str]) -> str:
    """As `IEngineInspector` writes it: keys of the generation, names alone below DETAILED."""
    key = "I/O Tensors" if MAJOR >= 11 else "Bindings"
    layers = [Built(**layer) for layer in head["layers"]]
    names = [*inputs, *outputs]
    if not head["detailed"]:
        return json.dumps({"Layers": [layer.name for layer in layers], key: names})
    return json.dumps({"Layers": [_entry(layer, sparse=head["sparse"]) for layer in layers], key: names})


def _entry(layer: Built, *, sparse: bool) -> dict[str, Any]:
    kind = "Half" if layer.half else "Float"
    written = (
        {"Format": "Row major", "DataType": kind}
        if MAJOR >= 11
        else {"Format/Datatype": f"Row major linear {'FP16' if layer.half else 'FP32'} format"}
    )
    tensor = {"Name": f"{layer.name}_out", "Dimensions": [-1, layer.k], **written}
    tactic = SPARSE if sparse and layer.chosen else DENSE if layer.half else DENSE32
    return {
        "Name": f"{layer.name}_myl0_1",
        "LayerType": "gemm",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": f"[ONNX Layer: {layer.name}]\u001f[ONNX Layer: {layer.name}_bias]",
    }
