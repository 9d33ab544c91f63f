"""Small random models of families that people have, for the benchmark of channel orders."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
import transformers
from torch import Tensor, nn


class UNet(nn.Module):
    """Two scales, a skip connection that is joined, and a transposed convolution."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep, self.up = nn.Conv2d(16, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join, self.last = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Computes four values for every pixel."""
        wide = F.relu(self.norm(self.down(x)))
        deep = F.relu(self.deep(F.max_pool2d(wide, 2)))
        result: Tensor = self.last(F.relu(self.join(torch.cat([wide, self.up(deep)], 1))))
        return result


def small_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Saves each model, and yields its name and its path."""
    torch.manual_seed(0)
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    small = {"vocab_size": 100}
    models = {
        "ConvNeXt": transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], image_size=64)
        ),
        "ViT": transformers.ViTForImageClassification(transformers.ViTConfig(**text, image_size=32, patch_size=8)),
        "BERT": transformers.BertForSequenceClassification(transformers.BertConfig(**text, **small)),
        "Llama, grouped queries": transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**text, **small, num_key_value_heads=2)
        ),
        "Qwen3 with experts": transformers.Qwen3MoeForCausalLM(
            transformers.Qwen3MoeConfig(
                **text,
                **small,
                num_key_value_heads=2,
                head_dim=8,
                moe_intermediate_size=16,
                num_experts=4,
                num_experts_per_tok=2,
            )
        ),
        "Swin": transformers.SwinForImageClassification(
            transformers.SwinConfig(
                embed_dim=16, depths=[2, 2], num_heads=[2, 4], image_size=32, patch_size=4, window_size=4
            )
        ),
        "T5": transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                **small, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
            )
        ),
    }
    transformers.logging.set_verbosity_error()
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
        yield name, folder / name
    program = torch.export.export(
        UNet().eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, folder / "unet.pt2")
    yield "U-Net", folder / "unet.pt2"
