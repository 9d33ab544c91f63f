"""The values that options may have. Nothing of the project is imported here, so that everything can import it."""

from typing import Literal

LayerMethod = Literal["prox", "prox-gradient", "sparsegpt", "wanda", "magnitude"]
Method = Literal["prox", "prox-gradient", "prox-model", "sparsegpt", "wanda", "magnitude"]
Effort = Literal["fast", "default", "thorough"]
Permutation = Literal["auto", "no", "all"]
Refine = Literal["auto", "no", "weights", "weights+bias", "all"]
RefineMode = Literal["auto", "model", "segments"]
RefineTarget = Literal["dense", "views"]
Engine = Literal["auto", "tensorrt", "torch", "onnxruntime", "none"]
PicturePreset = Literal["imagenet", "clip", "siglip", "0-1"]
PictureLayout = Literal["nchw", "nhwc"]
Precision = Literal["fp16", "bf16", "fp32", "int8"]
GpuName = Literal["a100", "h100", "h200", "l4", "l40s", "orin", "rtx4090", "t4"]

AIMS_AT_DENSE_OUTPUT: frozenset[Method] = frozenset({"prox", "prox-gradient", "prox-model"})
"""The methods that can fit a layer to what the dense network gives; the others are baselines."""
