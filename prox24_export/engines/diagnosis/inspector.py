"""The layers of a built engine, from the JSON of TensorRT's `IEngineInspector`, 8.x to 11.x."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prox24_export.engines.diagnosis import tactic_times
from prox24_export.engines.diagnosis.layer_names import read_onnx_nodes
from prox24_export.errors import InputError, first_line

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
        name: The layer's name, fused names whole.
        kind: The inspector's `LayerType`, e.g. `CaskConvolution`, `gemm`, `Myelin`, `PluginV3`.
        tactic: The inspector's `TacticName`; empty where it tells none.
        onnx_nodes: The ONNX nodes that the layer's metadata names.
        inputs: The type of each input, e.g. `fp16`; an empty string where the inspector does not tell it.
        outputs: The type of each output, likewise.
        weights: The type of the weights; empty where the inspector does not tell it.
        groups: The number of groups of a convolution; 1 for other layers.
    """

    name: str
    kind: str = ""
    tactic: str = ""
    onnx_nodes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weights: str = ""
    groups: int = 1

    @property
    def is_sparse(self) -> bool:
        """Whether the tactic is a sparse one, judged by its name."""
        return tactic_times.is_sparse(self.tactic)

    @property
    def is_plugin(self) -> bool:
        """Whether a plugin computes the layer, so that TensorRT chooses no tactic for it."""
        return self.kind.startswith("Plugin")

    @property
    def is_region(self) -> bool:
        """Whether this is a whole Myelin region, of whose inside the inspector tells nothing."""
        return self.kind == "Myelin" or WHOLE_REGION.search(self.name) is not None

    @property
    def is_product(self) -> bool:
        """Whether the layer multiplies by weights; a node's bias or activation may be a layer of its own beside it."""
        words = self.kind if self.tactic.startswith(tactic_times.GENERATED) else f"{self.kind} {self.tactic}"
        return not (self.is_plugin or self.is_region) and COMPUTES.search(words) is not None


def parse(json_text: str) -> tuple[EngineLayer, ...]:
    """Reads engine information in JSON: the whole of it, one layer, a list of layers, or trtexec's `--exportLayerInfo`.

    Raises:
        InputError: The text is no such JSON, or the engine was built without detailed profiling information.
    """
    try:
        found = json.loads(json_text, strict=False)  # metadata's separators are control characters
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, or lists within lists
        raise InputError(
            f"expected the JSON of TensorRT's engine inspector (LayerInformationFormat.JSON); got {json_text[:40]!r}… "
            f"({first_line(error).rstrip('.')}). Export the layer information again; for tactics, {REMEDY}."
        ) from error
    layers = found.get("Layers") if isinstance(found, dict) and "Name" not in found else found
    layers = [layers] if isinstance(layers, dict) else layers
    if not isinstance(layers, list):
        kind = f"keys {sorted(found)}" if isinstance(found, dict) else type(found).__name__
        raise InputError(f"expected engine information with a list `Layers`; got {kind}. Export it as JSON.")
    _expect_detailed(layers)
    return tuple(_read_layer(layer, index) for index, layer in enumerate(layers))


def _expect_detailed(layers: Sequence[Any]) -> None:
    if any(isinstance(layer, str) for layer in layers):
        raise InputError(
            "expected an object for each layer of the engine, with its tactic; got names only: it was built with "
            f"LAYER_NAMES_ONLY. To see tactics, {REMEDY}."
        )


def _read_layer(layer: Any, index: int) -> EngineLayer:
    if not isinstance(layer, dict) or not isinstance(layer.get("Name"), str):
        raise InputError(
            f"expected an object with a `Name` for every layer of the engine; got {str(layer)[:60]!r} at {index}. "
            "Export the layer information again."
        )
    weights = layer.get("Weights")
    groups = layer.get("Groups", 1)
    return EngineLayer(
        name=layer["Name"],
        kind=_as_text(layer.get("LayerType")),
        tactic=_as_text(layer.get("TacticName")),
        onnx_nodes=read_onnx_nodes(_as_text(layer.get("Metadata"))),
        inputs=_read_types(layer.get("Inputs")),
        outputs=_read_types(layer.get("Outputs")),
        weights=_find_type(_as_text(weights.get("Type"))) if isinstance(weights, dict) else "",
        groups=groups if isinstance(groups, int) else 1,
    )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _read_types(tensors: Any) -> tuple[str, ...]:
    found = tensors if isinstance(tensors, list) else []
    return tuple(_read_tensor_type(tensor) for tensor in found if isinstance(tensor, dict))


def _read_tensor_type(tensor: Mapping[str, Any]) -> str:
    """Finds a tensor's type: TensorRT 11.x has `DataType` beside `Format`; before, one text tells both."""
    for key in ("DataType", "Datatype", "Format/Datatype", "Format"):
        if found := _find_type(_as_text(tensor.get(key))):
            return found
    return ""


def _find_type(text: str) -> str:
    return next((name for name, pattern in TYPES if pattern.search(text)), "")
