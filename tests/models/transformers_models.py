"""Small random models of each family that `transformers` knows, saved as directories."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT = SMALL | {"vocab_size": 96, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
DECODER = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
IMAGE = SMALL | {"image_size": 32, "patch_size": 8}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "decoder_layers": 1, "encoder_ffn_dim": 64,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "num_mel_bins": 16, "max_source_positions": 32,
    "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64, "bos_token_id": 1}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 96}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
MOE = {"num_experts_per_tok": 2}
QWEN_MOE = {"num_experts": 4, "moe_intermediate_size": 64, "head_dim": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER | {"head_dim": 8}),
    "mistral": ("MistralForCausalLM", "MistralConfig", DECODER),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", DECODER | {"head_dim": 8}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"eos_token_id": 2}),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT | {"vocab_size": 96, "max_position_embeddings": 64}),
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "vit": ("ViTForImageClassification", "ViTConfig", IMAGE),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", IMAGE),
    "whisper": ("WhisperForAudioClassification", "WhisperConfig", WHISPER),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", DECODER | MOE | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", DECODER | MOE | QWEN_MOE),
}


ONE: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
SHALLOW = ONE | {"vocab_size": 96, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
SIGHT = ONE | {"image_size": 32, "patch_size": 8}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
LLAVA = {"image_token_id": 95, "vision_feature_layer": -1, "text_config": DECODER | ONE | {"model_type": "llama"}}
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "decoder": ("LlamaForCausalLM", "LlamaConfig", DECODER | ONE),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", RESNET | {"num_labels": 5}),
    "clip_both": ("CLIPModel", "CLIPConfig", {"text_config": SHALLOW, "vision_config": SIGHT, "projection_dim": 16}),
    "speech": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER | {"encoder_layers": 1}),
    "sound": ("Wav2Vec2ForCTC", "Wav2Vec2Config", ONE | {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (9,)}),
    "llava": ("LlavaForConditionalGeneration", "LlavaConfig", LLAVA | {"vision_config": SIGHT}),
}
"""Families whose inputs are those of the samples."""


def built(family: str) -> nn.Module:
    architecture, config, options = (FAMILIES | OTHERS)[family]
    torch.manual_seed(0)
    module: nn.Module = getattr(transformers, architecture)(getattr(transformers, config)(**options)).eval()
    return module


def saved(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    module = built(family).to(dtype)
    transformers.utils.logging.disable_progress_bar()
    module.save_pretrained(folder)  # type: ignore[operator]
    return module


def linear_modules(module: nn.Module) -> set[str]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, transformers.pytorch_utils.Conv1D)
    return {name for name, child in module.named_modules() if isinstance(child, kinds)}
