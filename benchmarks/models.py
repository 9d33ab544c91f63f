"""Real models with their data, and the command run on them as a user would, with time and memory measured."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from polygraphy.logger import G_LOGGER
from polygraphy.tools.sparse import SparsityPruner

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PROX24_TEST_DATA", ROOT.parent / "shared" / "data"))
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

Files = tuple[Path, Path, Path]  # model, calibration, evaluation


@dataclass(frozen=True)
class Run:
    """A finished command: its report, wall seconds from start to end of the process, peak resident memory.

    `called_dense` counts the pruned weights that Polygraphy's own checker looks at and does not call sparse.
    """

    report: dict[str, Any]
    seconds: float
    peak_gb: float
    digest: str
    called_dense: int
    out: Path

    def metric(self, which: str) -> float:
        """Top-1 in per cent, or perplexity, of the `dense` or the `sparse` model."""
        figures = self.report["accuracy"][which]
        return float(figures.get("top1", figures.get("perplexity")))

    @property
    def dense(self) -> float:
        """Top-1 of the dense model, per cent."""
        return float(self.report["accuracy"]["dense"]["top1"])

    @property
    def sparse(self) -> float:
        """Top-1 of the sparse model, per cent."""
        return float(self.report["accuracy"]["sparse"]["top1"])

    @property
    def passes_per_stream(self) -> float:
        """Node executions of calibration, per stream, in dense passes over the data."""
        executions = self.report["executions"]
        return float(executions["calibration"]) / 2 / float(executions["dense_pass"])


def export(files: Files, folder: Path, *options: str, threads: int | None = None) -> Run:
    """Runs the command as a user would, on all cores or with so many threads, and measures the process."""
    model, calibration, evaluation = files
    out = folder / f"out-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "prox24_export", str(model), "--calibration", str(calibration)]
    command += ["--evaluation", str(evaluation), "--out", str(out), *options]
    started = time.perf_counter()
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    digest = report["output"]["sha256"]
    return Run(report, seconds, usage.ru_maxrss / 2**20, digest, called_dense(out, report), out)


def called_dense(out: Path, report: dict[str, Any]) -> int:
    """Pruned weights in which Polygraphy's checker finds a group that is not 2:4."""
    if not (out / "model.onnx").is_file():
        return 0  # it reads ONNX only
    pruner = SparsityPruner(onnx.load(out / "model.onnx"))
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(over="ignore"):
        pruner.check()
    pruned = {layer["weight"] for layer in report["layers"] if layer["state"] == "sparse"}
    return len(pruned & set(pruner.prune_infos) - set(pruner.sparse_tensors))


def digits(_folder: Path) -> Files:
    """The shipped sample."""
    here = ROOT / "samples" / "digits"
    return here / "digits_vit.onnx", here / "calibration.npz", here / "evaluation.npz"


def kwt1(folder: Path) -> Files:
    """KWT-1 keyword spotting, 12 blocks: 384 calibration clips, 1,500 test clips."""
    arrays = np.load(DATA / "speech" / "kws_features.npz")
    calibration = save(folder / "kws_calibration.npz", features=arrays["calib"])
    evaluation = save(folder / "kws_evaluation.npz", features=arrays["test"], labels=arrays["test_y"])
    return DATA / "speech" / "kwt1_encoder.onnx", calibration, evaluation


def resnet20(folder: Path) -> Files:
    """ResNet-20 on CIFAR-10: 512 calibration images, 2,000 test images."""
    arrays = np.load(DATA / "images" / "cifar10_jpg_subset.npz")
    calibration = save(folder / "cifar_calibration.npz", input=normalised(arrays["x_calib"]))
    evaluation = save(folder / "cifar_evaluation.npz", input=normalised(arrays["x_test"]), labels=arrays["y_test"])
    return DATA / "images" / "resnet20.onnx", calibration, evaluation


def magika(folder: Path) -> Files:
    """Magika file types: calibrated on rows 0 to 255, evaluated on the others."""
    arrays = np.load(DATA / "files" / "files_labelled.npz")
    calibration = save(folder / "magika_calibration.npz", bytes=arrays["x"][:256])
    evaluation = save(folder / "magika_evaluation.npz", bytes=arrays["x"][256:], labels=arrays["y"][256:])
    return DATA / "files" / "magika_v3_3.onnx", calibration, evaluation


def stories(folder: Path) -> Files:
    """stories260K, a Llama decoder: 1,385 calibration rows, 323 test rows of 256 tokens."""
    arrays = np.load(DATA / "lm" / "tokens.npz")
    calibration = save(folder / "stories_calibration.npz", input_ids=arrays["calib"].astype(np.int64))
    evaluation = save(folder / "stories_evaluation.npz", input_ids=arrays["test"].astype(np.int64))
    return DATA / "lm" / "stories260K-hf", calibration, evaluation


def mobilenet(folder: Path) -> Files:
    """MobileNetV1 0.25 on pictures: `folder` is where `arrays.py` beside them has written their arrays."""
    return DATA / "imagenet" / "mobilenetv1_0.25_224.onnx", folder / "calibration.npz", folder / "evaluation.npz"


DRAWS = {
    "digits sample": 192,
    "KWT-1": 288,
    "ResNet-20": 384,
    "Magika": 192,
    "stories260K": 512,
    "MobileNetV1 0.25": 192,
}
"""How many calibration samples a seed draws of those that there are, where each gets another draw."""

MODELS: dict[str, tuple[str, Callable[[Path], Files]]] = {
    "digits sample": ("", digits),
    "KWT-1": ("speech", kwt1),
    "ResNet-20": ("images", resnet20),
    "Magika": ("files", magika),
    "stories260K": ("lm", stories),
}  # name: (folder of the data, files)


def available(name: str) -> bool:
    """Whether a model's data are there; says so on stderr where they are not."""
    folder = DATA / MODELS[name][0]
    if not folder.is_dir():
        print(f"skipped {name}: {folder} is not there (set PROX24_TEST_DATA)", file=sys.stderr)
    return folder.is_dir() or not MODELS[name][0]


def save(path: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    """Writes an .npz file."""
    np.savez(path, **arrays)  # type: ignore[arg-type] # NumPy's stub takes the names for its own options
    return path


def normalised(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[N, H, W, 3] uint8 → [N, 3, H, W] float32, ImageNet mean and deviation."""
    scaled = (images.astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
