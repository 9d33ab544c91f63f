"""The layers of a built engine, from the JSON of TensorRT's `IEngineInspector`, 8.x to 11.x."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prox24_export.engines.diagnosis import tactic_times
from prox24_export.engines.diagnosis.layer_names import onnx_nodes
from prox24_export.errors import InputError

REMEDY = "build with profiling_verbosity = DETAILED (trtexec: --profilingVerbosity=detailed)"
# In order: `BFloat16` holds `Float16`, and a format's prose holds numbers of channels beside the type.
TYPES = (
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|\bhalf\b|float16", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|float8", re.IGNORECASE)),
    ("fp4", re.compile(r"fp4|float4", re.IGNORECASE)),
    ("int8", re.compile(r"\bu?int8\b", re.IGNORECASE)),
    ("int4", re.compile(r"\bint4\b", re.IGNORECASE)),
    ("int64", re.compile(r"int64", re.IGNORECASE)),
    ("int32", re.compile(r"int32", re.IGNORECASE)),
    ("bool", re.compile(r"bool", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|\bfloat\b|float32|tf32", re.IGNORECASE)),
)
COMPUTES = re.compile(r"conv|gemm|matmul|matrix|fully|fprop|xmma|cutlass", re.IGNORECASE)
WHOLE_REGION = re.compile(r"\{ForeignNode\[")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: Its name, fused names whole.
        kind: `LayerType`, e.g. `CaskConvolution`, `gemm`, `Myelin`, `PluginV3`.
        tactic: `TacticName`; empty where the inspector tells none.
        onnx_nodes: Nodes that its metadata names.
        has_sparse_weights: Whether its weights fit the pattern and sparse tactics were allowed, whatever the tactic is.
        inputs: Type of each input, e.g. `fp16`; empty where it is not told.
        outputs: Type of each output.
        weights: Type of its weights; empty where it is not told.
        groups: Of a convolution; 1 elsewhere.
    """

    name: str
    kind: str = ""
    tactic: str = ""
    onnx_nodes: tuple[str, ...] = ()
    has_sparse_weights: bool | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weights: str = ""
    groups: int = 1

    @property
    def is_sparse(self) -> bool:
        """Whether its tactic is a sparse one, by the tactic's name."""
        return tactic_times.is_sparse(self.tactic)

    @property
    def is_plugin(self) -> bool:
        """Whether a plugin computes it: TensorRT chooses no tactic for it."""
        return self.kind.startswith("Plugin")

    @property
    def is_region(self) -> bool:
        """Whether it is a whole Myelin region of which nothing inside is told."""
        return self.kind == "Myelin" or WHOLE_REGION.search(self.name) is not None

    @property
    def is_product(self) -> bool:
        """Whether it multiplies by weights: a node's bias or activation may be a layer of its own beside it."""
        told = self.kind if self.tactic.startswith(tactic_times.GENERATED) else f"{self.kind} {self.tactic}"
        return not (self.is_plugin or self.is_region) and COMPUTES.search(told) is not None


def parse(json_text: str) -> tuple[EngineLayer, ...]:
    """Reads engine information: the whole of it, its list of layers, or trtexec's `--exportLayerInfo`.

    Raises:
        InputError: It is no such JSON, or the engine was built without detailed profiling information.
    """
    try:
        found = json.loads(json_text, strict=False)  # metadata's separators are control characters
    except json.JSONDecodeError as error:
        raise InputError(
            f"expected the JSON of TensorRT's engine inspector (LayerInformationFormat.JSON); got {json_text[:40]!r}… "
            f"({error.msg}, line {error.lineno}). Export the layer information again; for tactics, {REMEDY}."
        ) from error
    layers = found.get("Layers") if isinstance(found, dict) and "Name" not in found else found
    layers = [layers] if isinstance(layers, dict) else layers
    if not isinstance(layers, list):
        kind = f"keys {sorted(found)}" if isinstance(found, dict) else type(found).__name__
        raise InputError(f"expected engine information with a list `Layers`; got {kind}. Export it as JSON.")
    _expect_detailed(layers)
    return tuple(_layer(layer, index) for index, layer in enumerate(layers))


def _expect_detailed(layers: Sequence[Any]) -> None:
    if any(isinstance(layer, str) for layer in layers):
        raise InputError(
            "expected an object for each layer of the engine, with its tactic; got names only: it was built with "
            f"LAYER_NAMES_ONLY. To see tactics, {REMEDY}."
        )


def _layer(layer: Any, index: int) -> EngineLayer:
    if not isinstance(layer, dict) or not isinstance(layer.get("Name"), str):
        raise InputError(
            f"expected an object with a `Name` for every layer of the engine; got {str(layer)[:60]!r} at {index}. "
            "Export the layer information again."
        )
    flag = layer.get("HasSparseWeights", layer.get("AllowSparse"))
    weights = layer.get("Weights")
    groups = layer.get("Groups", 1)
    return EngineLayer(
        name=layer["Name"],
        kind=_text(layer.get("LayerType")),
        tactic=_text(layer.get("TacticName")),
        onnx_nodes=onnx_nodes(_text(layer.get("Metadata"))),
        has_sparse_weights=None if flag is None else bool(flag),
        inputs=_types(layer.get("Inputs")),
        outputs=_types(layer.get("Outputs")),
        weights=_type(_text(weights.get("Type"))) if isinstance(weights, dict) else "",
        groups=groups if isinstance(groups, int) else 1,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _types(tensors: Any) -> tuple[str, ...]:
    return tuple(_tensor_type(tensor) for tensor in tensors if isinstance(tensor, dict)) if tensors else ()


def _tensor_type(tensor: Mapping[str, Any]) -> str:
    """11.x has `DataType` beside `Format`; before, one text tells both."""
    for key in ("DataType", "Datatype", "Format/Datatype", "Format"):
        if found := _type(_text(tensor.get(key))):
            return found
    return ""


def _type(text: str) -> str:
    return next((name for name, pattern in TYPES if pattern.search(text)), "")
