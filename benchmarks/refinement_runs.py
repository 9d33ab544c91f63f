"""Refined runs beside the same run layer by layer, on real models: one row each, sample by sample compared."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from models import MODELS, Files, Run, export, mobilenet
from results_files import RESULTS

Row = dict[str, Any]
WAYS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "half a minute": ("--refine-minutes", "0.5"),
    "views": ("--refine-target", "views"),
    "thorough": ("--effort", "thorough"),
    "segments": ("--refine-mode", "segments"),
    "prox-model": ("--method", "prox-model"),
}
TYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


def measure(
    name: str, seed: int, ways: Sequence[str], *, samples: int | None, pictures: Path | None, folder: Path
) -> Iterator[Row]:
    """Runs a model layer by layer, then in every way, on the same calibration samples, and yields a row for each way.

    Args:
        name: The model.
        seed: Draws the samples, and everything else.
        ways: Which ways to refine it, of `WAYS`.
        samples: How many calibration samples; None takes all.
        pictures: Where the pictures of MobileNet are.
        folder: Where files may be written.
    """
    files = find_files(name, pictures, folder)
    options = ["--seed", str(seed), *([] if samples is None else ["--samples", str(samples)])]
    plain = export(files, folder, *options, "--no-refine")
    before = score(plain, files)
    for way in ways:
        run = export(files, folder, *options, *WAYS[way])
        which = {"model": name, "seed": seed, "samples": samples or "all", "way": way}
        yield which | describe(plain, run, score(run, files) - before)


def find_files(name: str, pictures: Path | None, folder: Path) -> Files:
    """The model, its calibration and its evaluation samples."""
    if name == "MobileNetV1 0.25":
        if pictures is None:
            raise FileNotFoundError("the pictures of MobileNetV1 0.25: give --pictures FOLDER")
        return mobilenet(pictures)
    return MODELS[name][1](folder)


def describe(plain: Run, run: Run, gains: np.ndarray[Any, Any]) -> Row:
    """The figures of one run; a gain is better the larger it is, in points of top-1 or in 0.01 nats."""
    found = run.report["refinement"]
    curve = [point["held"] for point in found["curve"]]
    return {
        "dense": run.metric("dense"),
        "layerwise": plain.metric("sparse"),
        "refined": run.metric("sparse"),
        "gain": float(gains.mean()),
        "error": float(gains.std(ddof=1) / math.sqrt(len(gains))),
        "kept": found["kept"],
        "highest": max(curve) / curve[0] if curve else 1.0,
        "epochs": len(curve) - 1,
        "taken_back": found["taken_back"],
        "objective": [found["before"], found["after"]],
        "snr": [min(_list_ratios(one)) for one in (plain, run)],
        "refinement_seconds": found["seconds"],
        "seconds": [plain.seconds, run.seconds],
    }


def _list_ratios(run: Run) -> list[float]:
    return [output["snr_db"] for output in run.report["accuracy"]["outputs"] if output["snr_db"] is not None]


def score(run: Run, files: Files) -> np.ndarray[Any, Any]:
    """How good the sparse model is on each evaluation sample: 100 for a hit, or its log-likelihood in 0.01 nats."""
    arrays = dict(np.load(files[2]))
    if "labels" not in arrays:
        model = transformers.AutoModelForCausalLM.from_pretrained(run.out / "model", local_files_only=True)
        with torch.no_grad():
            rows = [torch.from_numpy(row[None]) for row in arrays["input_ids"]]
            return np.array([-100 * float(model(input_ids=row, labels=row).loss) for row in rows])
    labels = arrays.pop("labels")
    session = onnxruntime.InferenceSession(run.out / "model.onnx", providers=["CPUExecutionProvider"])
    types = {value.name: TYPES.get(value.type) for value in session.get_inputs()}
    feeds = {name: array.astype(types[name] or array.dtype) for name, array in arrays.items()}
    hits = [
        np.asarray(session.run(None, {name: array[start : start + 32] for name, array in feeds.items()})[0])
        for start in range(0, len(labels), 32)
    ]
    return 100.0 * (np.concatenate([part.reshape(len(part), -1) for part in hits]).argmax(-1) == labels)


def join_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that stand in the results, with these in the place of those of the same run."""
    file = RESULTS / "refinement.json"
    earlier = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    joined = {_name_run(row): row for row in [*earlier, *rows]}
    return [joined[key] for key in sorted(joined)]


def _name_run(row: Row) -> tuple[str, str, str, int]:
    return row["model"], row["way"], str(row["samples"]), row["seed"]
