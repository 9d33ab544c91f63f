"""The random decoder of 1.1 billion parameters that benchmarks share, with its samples."""

from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
ROWS, TOKENS = 16, 128


def make_decoder(folder: Path) -> Path:
    """Writes the decoder, float32, as a Hugging Face directory of 4.4 GB.

    Args:
        folder: Where the directory goes.
    """
    import torch  # noqa: PLC0415 - with the next one, a gigabyte that a benchmark of memory loads elsewhere
    import transformers  # noqa: PLC0415 - as above

    torch.manual_seed(0)
    made: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    made.save_pretrained(folder / "llama", max_shard_size="1GB")
    return folder / "llama"


def make_tokens(folder: Path) -> Path:
    """Writes random tokens to calibrate it with."""
    tokens = np.random.default_rng(0).integers(0, CONFIG["vocab_size"], size=(ROWS, TOKENS))
    np.savez(folder / "tokens.npz", input_ids=tokens)
    return folder / "tokens.npz"
