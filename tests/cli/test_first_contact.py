"""What people try first and what is wrong with it: each command is answered by one sentence with the way out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import PREFIX, command, in_process, snapshot
from tests.graphs import model, normal, save

GRAPH = """g (float[N,3,8,8] x) => (float[N,4] y) {
    h = Conv<kernel_shape=[1,1]>(x, w) r = Relu(h) m = GlobalAveragePool(r) f = Flatten(m) y = MatMul(f, v) }"""
RECIPE = "Give --preprocess imagenet, clip, siglip or 0-1 as the model was trained, or --mean and --std"
KINDS = "an .onnx file, a Hugging Face directory, a .pt2 file or module:function"
PICKLE = (
    f"is a pickle, which can run any code when it is read. Expected {KINDS}: save the model with save_pretrained "
    "(safetensors) or torch.export.save, or export it to ONNX."
)
DATA = ("--calibration", "samples.npz")
ANSWERS: dict[str, tuple[tuple[str, ...], str]] = {
    "a wrong type": (
        ("dense.onnx", "--calibration", "bytes.npz"),
        (
            "--calibration bytes.npz: 'x' is uint8 from 0 to 0: uint8 [N, H, W, C] looks like pictures. "
            f"{RECIPE}, or convert them yourself to float32."
        ),
    ),
    "a wrong layout": (
        ("dense.onnx", "--calibration", "last.npz"),
        (
            "--calibration last.npz: 'x' has shape [16, 8, 8, 3]. Expected [N, 3, 8, 8], the first axis running over "
            "samples. Channels are last here: store array.transpose(0, 3, 1, 2)."
        ),
    ),
    "no data": (
        ("dense.onnx", "--calibration", "empty"),
        (
            "--calibration empty is a folder without .npz files and pictures. Expected one feed dictionary a file, "
            "pictures, or one sub-folder of pictures for each class."
        ),
    ),
    "a picture folder without options": (
        ("dense.onnx", "--calibration", "pictures"),
        (
            "--calibration pictures holds pictures, and nothing says how they become numbers. "
            f"{RECIPE} (with --resize and --crop)."
        ),
    ),
    "an output that is a file": (
        ("dense.onnx", *DATA, "-o", "notes.txt"),
        "notes.txt is a file. Expected a folder that does not exist yet; choose one with -o.",
    ),
    "an output that is a model": (
        ("dense.onnx", *DATA, "-o", "served.onnx", "--force"),
        (
            "served.onnx is there already, and it was not written by a run whose report is in served-report: not even "
            "--force replaces it. Choose another name with -o."
        ),
    ),
    "an output that is the model": (
        ("dense.onnx", *DATA, "-o", "dense.onnx"),
        "dense.onnx, which is read, would be replaced by the output dense.onnx. Choose another name with -o.",
    ),
    "a directory without weights": (
        ("llm", *DATA),
        "llm holds no .safetensors file. Save the model with save_pretrained; pickles are not read.",
    ),
    "a .bin": (("pytorch_model.bin", *DATA), f"pytorch_model.bin {PICKLE}"),
    "a .pth": (("resnet.pth", *DATA), f"resnet.pth {PICKLE}"),
    "a URL": (
        ("https://example.org/models/resnet18.onnx", *DATA),
        (
            "model https://example.org/models/resnet18.onnx is a URL, and nothing is read from a network. Download it "
            "first, with curl -LO https://example.org/models/resnet18.onnx, and name the file."
        ),
    ),
    "a typo in an option": (
        ("dense.onnx", "--calibratoin", "samples.npz"),
        "Unknown option: --calibratoin. Did you mean --calibration? See prox24-export --help.",
    ),
    "a typo in a name": (
        ("dense.onx", *DATA),
        f"no such model: dense.onx. Expected {KINDS}. Did you mean dense.onnx?",
    ),
    "a typo in a command": (
        ("inspekt", "dense.onnx"),
        (
            "one model is expected, and dense.onnx comes after it. The commands before a model are bench, report, "
            "inspect, completion, cache; see prox24-export --help."
        ),
    ),
    "a name on a hub": (
        ("someone/resnet-18", *DATA),
        (
            f"no such model: someone/resnet-18. Expected {KINDS}. Nothing is downloaded: for a model of the Hugging "
            "Face hub run hf download someone/resnet-18 --local-dir resnet-18."
        ),
    ),
}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder as somebody has it who has just exported a model."""
    save(model(GRAPH, {"w": normal(8, 3, 1, 1), "v": normal(8, 4, seed=1)}), tmp_path)
    np.savez(tmp_path / "samples.npz", x=normal(16, 3, 8, 8))
    np.savez(tmp_path / "bytes.npz", x=np.zeros((16, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "last.npz", x=np.zeros((16, 8, 8, 3), np.float32))
    for name in ("empty", "pictures", "llm"):
        (tmp_path / name).mkdir()
    (tmp_path / "pictures" / "cat.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "llm" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    for name in ("notes.txt", "served.onnx", "pytorch_model.bin", "resnet.pth"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    return tmp_path


@pytest.mark.parametrize("attempt", ANSWERS)
def test_what_is_tried_first_is_answered_with_the_way_out(attempt: str, workplace: Path, capfd: Any) -> None:
    if attempt == "a picture folder without options":
        pytest.importorskip("PIL", reason="pillow is not installed")
    if attempt == "a directory without weights":
        pytest.importorskip("transformers", reason="transformers is not installed")
    arguments, answer = ANSWERS[attempt]
    before = snapshot(workplace)
    outcome = in_process(*arguments, "--quiet", folder=workplace, capture=capfd)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (2, "", f"{PREFIX}{answer}\n")
    assert snapshot(workplace) == before


def test_a_run_without_data_says_what_it_is_not_worth(workplace: Path) -> None:
    outcome = command("dense.onnx", "--engine", "none", "--quiet", folder=workplace)
    assert outcome.code == 0
    assert (
        "warning: No calibration data were given: inputs were random, so the masks are not based on data. Give "
        "--calibration before you rely on this model.\n"
    ) in outcome.stdout
