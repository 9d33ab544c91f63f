"""A model's `config.pbtxt` for Triton: the ONNX Runtime backend with TensorRT and sparse tactics."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from prox24_export.results.interface import ModelInterface, TensorFacts

MOST = 32  # samples that Triton may put into one call
TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float64": "TYPE_FP64",
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Triton's names of types: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto"""


def configure(name: str, interface: ModelInterface) -> str | None:
    """Writes the configuration of a model; None where an input or output is no tensor of a type that Triton serves.

    Where the first axis of every input and output is dynamic, it is taken for the samples, which Triton then joins.

    Args:
        name: The model's name in the repository.
        interface: The inputs and outputs of its ONNX file.
    """
    tensors = (*interface.inputs, *interface.outputs)
    if not interface.inputs or not interface.outputs or any(tensor.dtype not in TYPES for tensor in tensors):
        return None
    joins = all(tensor.shape and tensor.shape[0] < 0 for tensor in tensors)
    return "\n".join(
        [
            f"name: {json.dumps(name)}",
            'platform: "onnxruntime_onnx"',
            f"max_batch_size: {MOST if joins else 0}",
            *_write_tensors("input", interface.inputs, joins=joins),
            *_write_tensors("output", interface.outputs, joins=joins),
            *(["dynamic_batching { }"] if joins else []),
            "optimization {",
            "  execution_accelerators {",
            "    gpu_execution_accelerator [",
            "      {",
            '        name: "tensorrt"',
            '        parameters { key: "precision_mode" value: "FP16" }',
            '        parameters { key: "trt_sparsity_enable" value: "1" }',
            '        parameters { key: "trt_engine_cache_enable" value: "1" }',
            '        parameters { key: "trt_engine_cache_path" value: "/tmp/trt_cache" }',
            "      }",
            "    ]",
            "  }",
            "}",
            "",
        ]
    )


def name_model(path: str) -> str:
    """The name of a model in the repository, from the folder that it was written to."""
    found = PurePath(path).parent.name or PurePath(path).stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", found) or "model"


def _write_tensors(kind: str, tensors: Sequence[TensorFacts], *, joins: bool) -> Iterator[str]:
    yield f"{kind} ["
    for place, tensor in enumerate(tensors):
        dims = [max(size, -1) for size in (tensor.shape[1:] if joins else tensor.shape)]
        yield "  {"
        yield f"    name: {json.dumps(tensor.name)}"
        yield f"    data_type: {TYPES[tensor.dtype]}"
        yield f"    dims: [ {', '.join(map(str, dims or [1]))} ]"
        if not dims:  # Triton knows no tensor without axes
            yield "    reshape { shape: [ ] }"
        yield f"  }}{',' if place < len(tensors) - 1 else ''}"
    yield "]"
