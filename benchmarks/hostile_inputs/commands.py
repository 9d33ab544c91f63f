"""The commands that read the inputs: most only look, a share run to their end."""

import random
from pathlib import Path

import numpy as np

FAST = ("-q", "-o", "out", "--method", "magnitude", "--no-refine")
MODEL = "model.onnx"
DATA = "data.npz"


def read_model(dice: random.Random, model: str = MODEL, share: float = 0.4) -> tuple[str, ...]:
    """A command that reads a model: `inspect`, or in a share of cases a whole run."""
    if dice.random() < share:
        return (model, *FAST)
    return ("inspect", model, *(("--format", "json") if dice.random() < 0.3 else ()))


def write_samples(folder: Path, name: str = DATA, width: int = 8, count: int = 12) -> None:
    """Writes samples that fit the model `plain`."""
    np.savez(folder / name, x=np.random.default_rng(3).standard_normal((count, width)).astype(np.float32))
