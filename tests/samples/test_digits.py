"""The digits sample: what is shipped, and that its script makes it again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SAMPLE = Path(__file__).parents[2] / "samples" / "digits"
MODEL = "digits_vit.onnx"
CALIBRATION = "calibration.npz"
EVALUATION = "evaluation.npz"
DOCUMENTED = 0.99
NOTES = {"doc_string", "metadata_props"}


def arrays(path: Path) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    with np.load(path) as held:
        assert sorted(held.files) == ["image", "labels"]
        return held["image"], held["labels"]


def logits(folder: Path, image: NDArray[Any]) -> NDArray[np.float32]:
    session = ort.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": image.astype(np.float32)})
    return np.asarray(found)


def top1(folder: Path) -> float:
    image, labels = arrays(folder / EVALUATION)
    return float(np.mean(np.argmax(logits(folder, image), axis=1) == labels))


def texts(message: Any) -> Iterator[tuple[str, str]]:
    """Every text in a protobuf message, with the name of the field that holds it."""
    for field, value in message.ListFields():
        for item in [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else _items(value):
            if isinstance(item, str):
                yield field.name, item
            elif hasattr(item, "ListFields"):
                yield from ((field.name if field.name in NOTES else name, text) for name, text in texts(item))


def _items(value: Any) -> list[Any]:
    return [] if isinstance(value, int | float) else list(value)


def test_the_shipped_files_are_small() -> None:
    assert sum((SAMPLE / name).stat().st_size for name in (MODEL, CALIBRATION, EVALUATION)) < 2_000_000


def test_the_model_is_valid_and_self_contained(tmp_path: Path) -> None:
    alone = tmp_path / MODEL
    alone.write_bytes((SAMPLE / MODEL).read_bytes())
    onnx.checker.check_model(alone, full_check=True)
    assert not any(weight.external_data for weight in onnx.load(alone, load_external_data=False).graph.initializer)


def test_the_model_holds_no_path_and_no_exporter_notes() -> None:
    held = list(texts(onnx.load(SAMPLE / MODEL)))
    assert ("name", "blocks.0.mlp.fc1.weight") in held
    assert not [pair for pair in held if pair[0] in NOTES]
    assert not [text for _, text in held if not re.fullmatch(r"|\w[\w.+/]*", text) or ".py" in text]


def test_every_layer_but_the_patch_embedding_has_a_multiple_of_16_inputs() -> None:
    graph = onnx.load(SAMPLE / MODEL).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    inputs = {}
    for node in graph.node:
        if node.op_type in {"MatMul", "Gemm"} and node.input[1] in shapes:
            inputs[node.name] = shapes[node.input[1]][0 if node.op_type == "MatMul" else 1]
    assert len(inputs) == 17
    assert all(count % 16 == 0 for count in inputs.values())
    assert shapes["patch.weight"] == (64, 1, 2, 2)
    assert sum(node.op_type == "MatMul" and node.input[1] not in shapes for node in graph.node) == 8


def test_the_model_is_as_accurate_as_documented() -> None:
    assert f"{100 * DOCUMENTED:.1f} %" in (SAMPLE / "make.py").read_text(encoding="utf-8")
    assert top1(SAMPLE) >= DOCUMENTED


@pytest.mark.parametrize("count", [1, 7])
def test_the_batch_is_free(count: int) -> None:
    image, _ = arrays(SAMPLE / EVALUATION)
    alone = logits(SAMPLE, image[:count])
    assert alone.shape == (count, 10)
    np.testing.assert_allclose(alone, logits(SAMPLE, image)[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [(CALIBRATION, 256), (EVALUATION, 500)])
def test_the_images_are_exact_sixteenths_with_a_digit_each(name: str, count: int) -> None:
    image, labels = arrays(SAMPLE / name)
    assert (image.dtype.name, image.shape) == ("float16", (count, 1, 8, 8))
    assert (labels.dtype.name, labels.shape) == ("int64", (count,))
    assert set(np.unique(16 * image.astype(np.float32))) == set(range(17))
    assert set(labels) == set(range(10))


def test_no_calibration_image_is_evaluated_on() -> None:
    calibration, evaluation = (
        {one.tobytes() for one in arrays(SAMPLE / name)[0]} for name in (CALIBRATION, EVALUATION)
    )
    assert len(calibration) == 256
    assert len(evaluation) == 500
    assert not calibration & evaluation


def test_the_script_makes_the_sample_again(tmp_path: Path) -> None:
    """With a twelfth of the training; `benchmarks/acceptance.py` has all of it."""
    done = subprocess.run(
        [sys.executable, SAMPLE / "make.py", "--out", tmp_path, "--epochs", "5"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [CALIBRATION, MODEL, EVALUATION]
    for name in (CALIBRATION, EVALUATION):
        for made, shipped in zip(arrays(tmp_path / name), arrays(SAMPLE / name), strict=True):
            np.testing.assert_array_equal(made, shipped)
    again = top1(tmp_path)
    assert f"{100 * again:.2f} %" in done.stdout
    assert again > 0.8  # of the shipped one's 0.99
