"""Small random models of the families that people export, with samples that each of them takes."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import strangers_modules as own
import torch
import transformers as hf
from torch import nn

Arrays = dict[str, np.ndarray[Any, Any]]
Draw = Callable[[np.random.Generator, int], Arrays]
TOKENS = 60  # of the vocabulary; those below FIRST are special
FIRST = 4
LENGTH = 12
CONFIGURED = {"num_labels": 8, "use_cache": False}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        name: As people call it.
        make: Makes the module in evaluation mode.
        draw: Draws a number of samples: arrays by input name, with one entry a sample along their first axis.
        ways: How it is exported beside torch's own exporters; `directory` is that of `save_pretrained`.
        finish: Is given the exported file, and completes it.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    ways: Sequence[str] = ()
    finish: Callable[[Path], None] | None = field(default=None, repr=False)

    def build(self) -> nn.Module:
        """Makes the module, the same one each time, with the statistics of its samples where it normalises batches."""
        torch.manual_seed(zlib.crc32(self.name.encode()))
        module = self.make()
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            with torch.no_grad():
                module.train()(**{name: torch.from_numpy(array) for name, array in self.samples(32).items()})
        return module.eval()

    def samples(self, count: int) -> Arrays:
        """Draws samples, the same ones each time."""
        return self.draw(np.random.default_rng(zlib.crc32(self.name.encode())), count)


def images(size: int, name: str = "pixel_values") -> Draw:
    """Draws images with smooth structure [count, 3, size, size]: noise that is white alone shows no accuracy."""

    def draw(rng: np.random.Generator, count: int) -> Arrays:
        coarse = rng.standard_normal((count, 3, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
        return {name: (coarse + 0.3 * rng.standard_normal((count, 3, size, size))).astype(np.float32)}

    return draw


def sequences(name: str, width: int, length: int) -> Draw:
    """Draws floats [count, length, width]."""
    return lambda rng, count: {name: rng.standard_normal((count, length, width)).astype(np.float32)}


def tokens(*names: str, masked: bool = False) -> Draw:
    """Draws token ids [count, length] for each name; `masked` adds `attention_mask`, which leaves out the ends."""

    def draw(rng: np.random.Generator, count: int) -> Arrays:
        arrays: Arrays = {name: rng.integers(FIRST, TOKENS, (count, LENGTH)) for name in names}
        if masked:
            ends = rng.integers(LENGTH // 2, LENGTH + 1, (count, 1))
            arrays["attention_mask"] = (np.arange(LENGTH) < ends).astype(np.int64)
        return arrays

    return draw


def together(*draws: Draw) -> Draw:
    """Draws the arrays of several."""
    return lambda rng, count: {name: array for draw in draws for name, array in draw(rng, count).items()}


def _resnet(**more: Any) -> hf.PretrainedConfig:
    return hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", out_features=["stage2"], **more
    )


def _small(**more: Any) -> Mapping[str, Any]:
    """The sizes that most configurations of transformers name alike."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**sizes, **CONFIGURED, **more}


def _text(**more: Any) -> Mapping[str, Any]:
    return _small(vocab_size=TOKENS, max_position_embeddings=64, **more)


def _gemma() -> nn.Module:
    sizes = _text(num_key_value_heads=2, head_dim=16, sliding_window=8)
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**sizes))


def _qwen() -> nn.Module:
    sizes = _text(num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48)
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**sizes))


def _mamba() -> nn.Module:
    sizes = {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2, "vocab_size": TOKENS, "use_cache": False}
    return hf.MambaForCausalLM(hf.MambaConfig(**sizes))


def _t5() -> nn.Module:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": TOKENS}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, use_cache=False, decoder_start_token_id=0))


def _whisper() -> nn.Module:
    halves = {f"{half}_{what}": size for half in ("encoder", "decoder") for what, size in _HALF.items()}
    config = hf.WhisperConfig(
        **halves, d_model=64, vocab_size=TOKENS, max_source_positions=24, max_target_positions=32, use_cache=False,
        **_SPECIAL, decoder_start_token_id=1, num_mel_bins=20,
    )  # fmt: skip
    return hf.WhisperForConditionalGeneration(config)


_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_HALF = {"layers": 2, "attention_heads": 4, "ffn_dim": 128}


def _clip() -> nn.Module:
    sizes = {name: size for name, size in _small().items() if name not in CONFIGURED}
    text = {**sizes, "vocab_size": TOKENS, "max_position_embeddings": 32, **_SPECIAL}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def _spectrograms(rng: np.random.Generator, count: int) -> Arrays:
    """Draws spectrograms [count, frequencies, frames]."""
    return {"input_features": rng.standard_normal((count, 20, 48)).astype(np.float32)}


def _sounds(rng: np.random.Generator, count: int) -> Arrays:
    """Draws sounds [count, channels, length]."""
    return {"x": rng.standard_normal((count, 16, 40)).astype(np.float32)}


def _detr() -> nn.Module:
    halves = {f"{half}_{what}": size for half in ("encoder", "decoder") for what, size in _HALF.items()}
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=_resnet(),
        d_model=64, num_queries=8, num_labels=5, **halves,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


def _efficientnet() -> nn.Module:
    sizes = {"image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 1.0, "hidden_dim": 640}
    sizes |= {"in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "kernel_sizes": [3, 3, 5]}
    sizes |= {"strides": [1, 2, 2], "num_block_repeats": [1, 1, 1], "expand_ratios": [1, 6, 6]}
    return hf.EfficientNetForImageClassification(hf.EfficientNetConfig(**sizes, num_labels=8))


def _mobilevit() -> nn.Module:
    sizes = {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 128]}
    return hf.MobileViTForImageClassification(
        hf.MobileViTConfig(image_size=64, **sizes, num_attention_heads=4, num_labels=8)
    )


def _segformer() -> nn.Module:
    sizes = {"hidden_sizes": [16, 32, 48, 64], "depths": [1] * 4, "decoder_hidden_size": 64, "num_labels": 8}
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**sizes, num_attention_heads=[1, 2, 2, 4]))


def _deberta() -> nn.Module:
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    sizes = {"share_att_key": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "max_relative_positions": -1}
    return hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**_text(**relative, **sizes)))


SAVED = ("directory",)
FAMILIES: tuple[Family, ...] = (
    Family(
        "ConvNeXt",
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(num_stages=2, hidden_sizes=[32, 64], depths=[1, 2], num_labels=8)
        ),
        images(32),
        SAVED,
    ),
    Family(
        "Swin",
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(image_size=32, embed_dim=32, depths=[1, 2], num_heads=[2, 4], window_size=4, num_labels=8)
        ),
        images(32),
        SAVED,
    ),
    Family("EfficientNet", _efficientnet, images(32), SAVED),
    Family("MobileViT", _mobilevit, images(64), SAVED),
    Family(
        "ViT, fused attention",
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(**_small(image_size=32, patch_size=8), attn_implementation="sdpa")
        ),
        images(32),
        SAVED,
    ),
    Family(
        "ViT, plain attention",
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(**_small(image_size=32, patch_size=8), attn_implementation="eager")
        ),
        images(32),
    ),
    Family(
        "RegNet",
        lambda: hf.RegNetForImageClassification(
            hf.RegNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], groups_width=16, num_labels=8)
        ),
        images(32),
        SAVED,
    ),
    Family("ResNeXt, grouped", own.ResNeXt, images(32, "x")),
    Family("U-Net", own.UNet, images(32, "x")),
    Family("DETR", _detr, images(64), SAVED),
    Family("SegFormer", _segformer, images(64), SAVED),
    Family(
        "BERT",
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**_text())),
        tokens("input_ids", masked=True),
        SAVED,
    ),
    Family("DeBERTa", _deberta, tokens("input_ids", masked=True), SAVED),
    Family("T5", _t5, tokens("input_ids", "decoder_input_ids", masked=True), SAVED),
    Family("Whisper", _whisper, together(_spectrograms, tokens("decoder_input_ids")), SAVED),
    Family("CLIP", _clip, together(tokens("input_ids", masked=True), images(32)), SAVED),
    Family("Gemma 3", _gemma, tokens("input_ids", masked=True), SAVED),
    Family("Qwen3, experts", _qwen, tokens("input_ids"), SAVED),
    Family("Mamba", _mamba, tokens("input_ids"), SAVED),
    Family("LSTM", own.Recurrent, sequences("x", 24, 10)),
    Family("weight-normed convolutions", own.WeightNormed, _sounds),
    Family("detector with NMS", own.Detector, images(32, "x"), finish=own.append_selection),
)
