"""Trains the digits sample: a small vision transformer, its ONNX export and its two data files.

The images are scikit-learn's bundled handwritten digits (1797 of 8x8 pixels, no two alike; nothing is downloaded). They
are split at random into 1297 to train on and 500 to evaluate on; 256 of the training images are the calibration set.
The training settings were chosen by cross-validation on the 1297. What comes out, beside this script or in the folder
given with `--out`:

- `digits_vit.onnx`: input `image` (float32, [N, 1, 8, 8], pixels in [0, 1]), output `logits` (float32, [N, 10]);
- `calibration.npz` and `evaluation.npz`: arrays `image` (float16, exact since a pixel is a multiple of 1/16) and
  `labels` (int64).

It takes about half a minute on one core. The accuracy printed at the end is that of the exported model, run by ONNX
Runtime on the evaluation images: 99.0 % for the model shipped here. Seed and thread count are fixed, so one machine
makes the same files every time; rounding differs between machines and training amplifies it, so another machine's
weights differ, and its accuracy by an image or two.

    python samples/digits/make.py [--out DIR]
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 24
THREADS = 1  # more threads gain little on a model this small, and lose much on a busy machine
OPSET = 20

SIDE = 8
CLASSES = 10
EVALUATION = 500
CALIBRATION = 256

PATCH = 2
TOKENS = (SIDE // PATCH) ** 2
DIM = 64
HEADS = 4
HIDDEN = 256
DEPTH = 4

EPOCHS = 60
BATCH = 64
PEAK_RATE = 2e-3
WARMUP = 0.1
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1
POSITION_SCALE = 0.3  # as large as the patch embedding: smaller ones cost two points of accuracy
BRANCH_SCALE = 0.2  # the residual branches start small

TURN = 0.2  # largest random rotation and shear, in radians
STRETCH = 0.1  # largest random change of scale
MOVE = 0.12  # largest random translation, in half-images


class Images(NamedTuple):
    """Images in [0, 1], [N, 1, 8, 8], and the digit each shows."""

    image: NDArray[np.float32]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Images:
        """Returns the images at these rows."""
        return Images(self.image[rows], self.labels[rows])


class Attention(nn.Module):
    """Multi-head self-attention, written out so that its two activation products are plain MatMuls."""

    def __init__(self) -> None:
        """Makes the fused query, key and value layer and the output layer."""
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the tokens of each image."""
        width = DIM // HEADS
        q, k, v = (part.reshape(-1, TOKENS, HEADS, width).transpose(1, 2) for part in self.qkv(x).split(DIM, dim=-1))
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(width), dim=-1)
        mixed: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(-1, TOKENS, DIM))
        return mixed


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self) -> None:
        """Makes the two layers."""
        super().__init__()
        self.fc1 = nn.Linear(DIM, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each token by itself."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        """Makes the block's two branches and their norms."""
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = Mlp()
        with torch.no_grad():
            self.attn.proj.weight.mul_(BRANCH_SCALE)
            self.mlp.fc2.weight.mul_(BRANCH_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Adds to the tokens what each branch makes of them."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class DigitsVit(nn.Module):
    """A vision transformer on 2x2 patches, mean-pooled."""

    def __init__(self) -> None:
        """Makes the patch embedding, the blocks and the head."""
        super().__init__()
        self.patch = nn.Conv2d(1, DIM, PATCH, stride=PATCH)
        self.position = nn.Parameter(POSITION_SCALE * torch.randn(1, TOKENS, DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the logits of the ten digits."""
        x: Tensor = self.patch(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def split() -> tuple[Images, Images]:
    """Returns the training and the evaluation images."""
    bundled = load_digits()
    image = np.asarray(bundled.images[:, None] / 16, dtype=np.float32)
    every = Images(image, np.asarray(bundled.target, dtype=np.int64))
    order = np.random.default_rng(SEED).permutation(len(every.labels))
    return every.take(order[EVALUATION:]), every.take(order[:EVALUATION])


def warped(image: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images turned, sheared, scaled and moved a little, each by its own draw."""
    turn, shear, wide, high, right, down = 2 * torch.rand(6, len(image), generator=generator) - 1
    turn, wide, high = TURN * turn, 1 + STRETCH * wide, 1 + STRETCH * high
    across = torch.stack([turn.cos() * wide, TURN * shear - turn.sin(), MOVE * right], dim=-1)
    along = torch.stack([turn.sin(), turn.cos() * high, MOVE * down], dim=-1)
    grid = nn.functional.affine_grid(torch.stack([across, along], dim=1), list(image.shape), align_corners=False)
    return nn.functional.grid_sample(image, grid, align_corners=False)


def train(images: Images, epochs: int) -> DigitsVit:
    """Trains the model from scratch."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsVit()
    image, labels = torch.from_numpy(images.image), torch.from_numpy(images.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    steps = epochs * math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps, pct_start=WARMUP)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
            logits = model(warped(image[rows], generator))
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return model.eval()


def export(model: DigitsVit) -> bytes:
    """Returns the model as a self-contained ONNX file with a free batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about its own code
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 1, SIDE, SIDE),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("N")}},
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no model")
    tidy(program.model)
    proto = onnx_ir.to_proto(program.model)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def tidy(model: onnx_ir.Model) -> None:
    """Names each layer after its module and drops the exporter's notes, which hold source paths."""
    for node in model.graph:
        name_layer(node)
        node.metadata_props.clear()
        node.doc_string = None
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def name_layer(node: onnx_ir.Node) -> None:
    """Gives a layer with a weight, and that weight, the name of the module they came from."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type in {"Conv", "Gemm", "MatMul"} and weight is not None and weight.is_initializer():
        scopes = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])
        module = scopes[-2]  # the last one is the operation
        node.name = f"{module}/{node.op_type}"
        weight.name = f"{module}.weight"


def packed(images: Images) -> bytes:
    """Returns the images as the bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=images.image.astype(np.float16), labels=images.labels)
    return buffer.getvalue()


def accuracy(model: bytes, images: Images) -> float:
    """Returns the share of the images that the exported model names right."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.image})
    return float(np.mean(np.argmax(logits, axis=1) == images.labels))


def write(path: Path, content: bytes) -> None:
    """Writes a file whole: it is there complete or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    print(f"{path.name}: {len(content)} bytes")


def main() -> None:
    """Makes the three files."""
    parser = argparse.ArgumentParser(description="Trains and exports the digits sample.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write the files to")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    training, evaluation = split()
    begun = time.perf_counter()
    trained = train(training, arguments.epochs)
    print(f"trained in {time.perf_counter() - begun:.0f} s")
    model = export(trained)
    write(out / "digits_vit.onnx", model)
    write(out / "calibration.npz", packed(Images(training.image[:CALIBRATION], training.labels[:CALIBRATION])))
    write(out / "evaluation.npz", packed(evaluation))
    print(f"top-1 on {EVALUATION} held-out images: {100 * accuracy(model, evaluation):.2f} %")


if __name__ == "__main__":
    main()
