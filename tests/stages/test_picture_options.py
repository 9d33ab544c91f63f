"""Folders of pictures through whole runs: options, files beside the model, labels, and what is refused."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.passes.graph.arrays import Array
from tests.command import in_process
from tests.graphs import model, normal, save

Image = pytest.importorskip("PIL.Image")

GRAPH = """g (float[N,3,8,8] x) => (float[N,4] logits) {
    h = Conv<kernel_shape=[1,1]>(x, w) r = Relu(h) m = GlobalAveragePool(r) f = Flatten(m) logits = MatMul(f, v) }"""


def prepared(folder: Path, *classes: str, size: tuple[int, int] = (8, 8)) -> Path:
    """A small classifier, and a folder `pictures` of ten random pictures, or of as many in a sub-folder a class."""
    path = save(model(GRAPH, {"w": normal(8, 3, 1, 1), "v": normal(8, 4, seed=1)}), folder)
    draw = np.random.default_rng(0)
    for inside in classes or (".",):
        place = folder / "pictures" / inside
        place.mkdir(parents=True, exist_ok=True)
        for index in range(10):
            values = draw.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(values).save(place / f"{index}.png")
    return path


def tried(folder: Path, capture: Any, *options: str) -> Any:
    arguments = ("--calibration", "pictures", "--engine", "none", "--no-refine", "--force", *options)
    return in_process(folder / "dense.onnx", *arguments, folder=folder, capture=capture)


def test_labels_come_from_sub_folders(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, "0", "1", "3")
    outcome = tried(tmp_path, capfd, "--preprocess", "0-1")
    assert outcome.code == 0, outcome
    assert "top1: " in outcome.stdout
    report = json.loads((tmp_path / "dense-2to4" / "report.json").read_text("utf-8"))
    assert report["settings"]["preprocess"] == "0-1"


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("names.txt", "cow\nhorse\ncat\ndog\n", ("--classes", "names.txt")),
        ("names.json", '{"0": "cow", "1": "cat", "2": "dog"}', ("--classes", "names.json")),
        ("config.json", '{"id2label": {"0": "cow", "1": "cat", "2": "dog"}}', ()),
    ],
)
def test_names_of_classes_come_from_a_file_or_the_configuration(
    name: str, content: str, options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, "cat", "dog")
    outcome = tried(tmp_path, capfd, "--preprocess", "0-1")
    assert outcome.code == 2
    assert "has a sub-folder 'cat', and nothing says which class that is." in outcome.stderr
    (tmp_path / name).write_text(content, encoding="utf-8")
    outcome = tried(tmp_path, capfd, "--preprocess", "0-1", *options)
    assert outcome.code == 0, outcome
    assert "top1: " in outcome.stdout


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("names.json", '{"cat": 0}', "--classes names.json does not name classes 0 to 0."),
        ("names.json", "[]", "names.json holds a list."),
        ("names.txt", b"\xff\xfe", "--classes names.txt cannot be read: "),
        ("other.txt", "cat", "no such --classes: names.txt."),
    ],
)
def test_a_file_that_names_no_classes_is_told(
    name: str, content: Any, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, "cat")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    wanted = name.replace("other", "names")
    outcome = tried(tmp_path, capfd, "--preprocess", "0-1", "--classes", wanted)
    assert outcome.code == 2
    assert said in outcome.stderr


def test_a_processor_beside_the_model_says_how_pictures_become_numbers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, size=(20, 13))
    assert "nothing says how they become numbers" in tried(tmp_path, capfd).stderr
    found = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(found), encoding="utf-8")
    outcome = tried(tmp_path, capfd)
    assert outcome.code == 0, outcome


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mean", "0.5,0.5"), "--mean must be one number, or three. Got (0.5, 0.5)."),
        (("--mean", "0.5", "--std", "0"), "--std must be one number above 0, or three. Got (0.0,)."),
        (("--mean", "half", "--std", "1"), "half"),
        (("--resize", "8 by 8"), "--resize must be a size such as 256 or 224x224. Got 8 by 8."),
        (("--preprocess", "resnet"), "resnet"),
        (("--layout", "chw"), "chw"),
        (("--preprocess", "0-1", "--tokenizer", "t.json"), "--tokenizer is for texts, and the samples are none."),
    ],
)
def test_wrong_options_are_told(
    options: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path)
    outcome = tried(tmp_path, capfd, *options)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_options_for_pictures_without_pictures_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = prepared(tmp_path)
    np.savez(tmp_path / "d.npz", x=normal(10, 3, 8, 8))
    outcome = in_process(path, "--calibration", "d.npz", "--mean", "0.5", "--std", "1", folder=tmp_path, capture=capfd)
    assert outcome.code == 2
    assert "--mean is for pictures, and the samples are none. Give a folder of them, or leave it out." in outcome.stderr


def find_masks(path: Path) -> dict[str, Array]:
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return {name: array != 0 for name, array in stored.items() if array.ndim == 4}


def test_a_folder_of_jpegs_gives_the_arrays_and_masks_that_its_arrays_give(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    with zipfile.ZipFile(shared_data / "imagenet" / "images.zip") as archive:
        names = sorted(archive.namelist())
        chosen = sorted(names[index] for index in np.random.RandomState(0).permutation(len(names))[:256])
        contents = [archive.read(name) for name in chosen]
    for name, content in zip(chosen, contents, strict=True):
        (tmp_path / "pictures" / name).write_bytes(content)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents])
    np.savez(tmp_path / "d.npz", input=(pixels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2).copy())
    masks = []
    for name, options in (("pictures", ("--mean", "0.5", "--std", "0.5")), ("d.npz", ())):
        outcome = in_process(
            *(shared_data / "imagenet" / "mobilenetv1_0.25_224.onnx", "--calibration", name, *options),
            *("--no-refine", "--permute", "no", "--effort", "fast", "--engine", "none", "-o", f"{name}-out"),
            folder=tmp_path,
            capture=capfd,
        )
        assert outcome.code == 0, outcome
        masks.append(find_masks(tmp_path / f"{name}-out" / "model.onnx"))
    entries = sum(mask.size for mask in masks[0].values())
    assert entries > 450_000
    assert sum(int((masks[0][name] == masks[1][name]).sum()) for name in masks[0]) >= 0.999 * entries
