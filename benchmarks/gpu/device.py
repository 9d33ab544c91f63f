"""Whole exports with `--device cuda` against the same exports on the CPU: masks, accuracy and time.

    python -m benchmarks.gpu.device [--write [FOLDER]] [--limit SECONDS]

Needs one CUDA GPU. Exits 2 where there is none. KWT-1 and stories260K are read from `PROX24_TEST_DATA`; the decoder of
1.1 billion parameters is random, and needs transformers and 9 GB of disk. Nothing is refined, so that what is compared
are the masks of the solver.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if not __package__:  # started as a file: the root of the repository takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gpu.meter import Meter
from benchmarks.gpu.part import Group, Measured, Part, Row, markdown_table, run_part
from benchmarks.large_model import make_decoder, make_tokens
from benchmarks.results_files import RESULTS
from prox24_export import Settings

if TYPE_CHECKING:
    from prox24_export.results.report import Report

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "samples" / "digits"
COLUMNS = {
    "model": "model",
    "layers": "layers",
    "cpu_seconds": "CPU, s",
    "gpu_seconds": "GPU, s",
    "times_as_fast": "times as fast",
    "mask_percent": "mask entries that differ, %",
    "worst_layer_percent": "in the worst layer, %",
    "dense": "dense",
    "cpu": "sparse, CPU",
    "gpu": "sparse, GPU",
    "on_host": "left to the host",
}
SEVERAL = {
    "model": "model",
    "layers": "layers",
    "one_seconds": "one GPU, s",
    "all_seconds": "all GPUs, s",
    "times_as_fast": "times as fast",
    "mask_percent": "mask entries that differ, %",
    "worst_layer_percent": "in the worst layer, %",
}


@dataclass(frozen=True)
class Subject:
    """A model with its samples.

    Attributes:
        name: In the tables.
        model: The file or directory.
        calibration: The samples to prune with.
        options: Further settings.
    """

    name: str
    model: Path
    calibration: Path
    options: Mapping[str, Any]


def list_groups(_meter: Meter) -> list[Group]:
    """What matters most first, several GPUs where there are some; seconds are those of a machine with few cores."""
    several = [Group(f"{count} GPUs against one", 60, compare_several)] if (count := count_gpus()) > 1 else []
    return [
        Group("KWT-1", 60, lambda: compare_files("KWT-1", _find_data() / "speech" / "kwt1_encoder.onnx", "speech")),
        Group("stories260K", 60, lambda: compare_files("stories260K", _find_data() / "lm" / "stories260K-hf", "lm")),
        Group("a decoder of 1.1 billion parameters", 150, compare_decoder),
        *several,
    ]


def count_gpus() -> int:
    """How many GPUs a run with `--device cuda:all` would use."""
    from prox24_export.stages.device import choose_devices  # noqa: PLC0415 - as below

    return len(choose_devices("cuda:all"))


def compare_files(name: str, model: Path, kind: str) -> Measured:
    """Exports a small model on both devices, after a smaller one that compiles kernels."""
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "calibration.npz"
        if kind == "speech":
            np.savez(calibration, features=np.load(_find_data() / "speech" / "kws_features.npz")["calib"])
        else:
            tokens = np.load(_find_data() / "lm" / "tokens.npz")["calib"][:256]
            np.savez(calibration, input_ids=tokens.astype(np.int64))
        return _show([compare(Subject(name, model, calibration, {}), Path(folder))])


def compare_decoder() -> Measured:
    """Exports one block on both devices, and three on the GPU against what the CPU took for them.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, calibration = make_decoder(folder), make_tokens(folder)
        first = Subject("Llama 1.1B, block 1", model, calibration, {"include": ("model.layers.0.*",)})
        rows = [compare(first, folder)]
        blocks = tuple(f"model.layers.{block}.*" for block in range(3))
        report, seconds = run(Subject("", model, calibration, {"include": blocks}), "cuda", folder / "three")
        rows.append(
            {
                "model": "Llama 1.1B, blocks 1 to 3, against two cores as committed",
                "layers": _count_sparse(report),
                "cpu_seconds": (before := read_committed_seconds()),
                "gpu_seconds": seconds,
                "times_as_fast": before / seconds,
                "on_host": _describe_host(report),
            }
        )
        return _show(rows)


def compare(subject: Subject, folder: Path) -> Row:
    """Exports a model on both devices, and sets the results side by side."""
    _warm_up(folder)
    (cpu, cpu_seconds), (gpu, gpu_seconds) = (run(subject, device, folder / device) for device in ("cpu", "cuda"))
    metric = next(iter(cpu.accuracy.dense), None) if cpu.accuracy else None
    return {
        "model": subject.name,
        "layers": _count_sparse(gpu),
        "cpu_seconds": cpu_seconds,
        "gpu_seconds": gpu_seconds,
        "times_as_fast": cpu_seconds / gpu_seconds,
        **_describe_masks(cpu, gpu),
        "metric": metric,
        "dense": _read_metric(cpu, metric, "dense"),
        "cpu": _read_metric(cpu, metric, "sparse"),
        "gpu": _read_metric(gpu, metric, "sparse"),
        "on_host": _describe_host(gpu),
    }


def compare_several() -> Measured:
    """Exports one block of the decoder on one GPU and on all of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"include": ("model.layers.0.*",)}
        subject = Subject("Llama 1.1B, block 1", make_decoder(folder), make_tokens(folder), options)
        row = compare_one_with_all(subject, folder)
    return Measured([row], markdown_table([row], SEVERAL))


def compare_one_with_all(subject: Subject, folder: Path) -> Row:
    """Exports a model on one GPU and on all of them, and sets the results side by side."""
    _warm_up(folder)
    (one, one_seconds), (all_, all_seconds) = (
        run(subject, device, folder / name) for device, name in (("cuda", "one"), ("cuda:all", "all"))
    )
    return {
        "model": subject.name,
        "layers": _count_sparse(all_),
        "one_seconds": one_seconds,
        "all_seconds": all_seconds,
        "times_as_fast": one_seconds / all_seconds,
        **_describe_masks(one, all_),
    }


def run(subject: Subject, device: str, out: Path) -> "tuple[Report, float]":
    """Exports a model; returns its report, and the wall seconds that it took."""
    from prox24_export import export  # noqa: PLC0415 - it loads ONNX, which is not needed to say that no GPU is here

    settings = Settings(device=device, engine="none", permute="no", refine="no", **subject.options)
    started = time.perf_counter()
    report = export(subject.model, subject.calibration, out, settings=settings, progress=False)
    return report, time.perf_counter() - started


def compare_masks(one: "Report", other: "Report") -> dict[str, float]:
    """The share of a mask's entries that differ between the models of two reports, by name of the layer."""
    from prox24_export.models.find_frontend import find_frontend  # noqa: PLC0415 - as above
    from prox24_export.passes.find_linears import FindLinears  # noqa: PLC0415 - as above

    graphs = [find_frontend(report.output.path).open() for report in (one, other)]
    sparse = {layer.name for layer in one.layers if layer.state == "sparse"}
    shares = {}
    for linear in FindLinears().call(graph=graphs[0]).linears:
        if linear.name in sparse:
            here, there = (linear.find_surviving(graph.stored(linear.weight)) for graph in graphs)
            shares[linear.name] = float((here != there).mean())
    return shares


def read_committed_seconds(results: Path = RESULTS) -> float:
    """The seconds that two cores took for three blocks of the decoder, as `benchmarks/large_decoder.py` wrote them."""
    rows = json.loads((results / "large_decoder.json").read_text(encoding="utf-8"))["rows"]
    return float(next(row["value"] for row in rows if "blocks 1 to 3" in row["model"] and row["figure"] == "seconds"))


def _warm_up(folder: Path) -> None:
    """Exports the sample on both devices, so that no kernel is compiled while time is taken."""
    for device in ("cpu", "cuda"):
        subject = Subject("", DIGITS / "digits_vit.onnx", DIGITS / "calibration.npz", {"samples": 16, "effort": "fast"})
        run(subject, device, folder / "sample")
        shutil.rmtree(folder / "sample")


def _describe_masks(one: "Report", other: "Report") -> Row:
    shares = compare_masks(one, other)
    return {
        "mask_percent": 100 * statistics.fmean(shares.values()),
        "worst_layer_percent": 100 * max(shares.values()),
    }


def _find_data() -> Path:
    return Path(os.environ.get("PROX24_TEST_DATA", ROOT.parent / "shared" / "data"))


def _count_sparse(report: "Report") -> int:
    return sum(layer.state == "sparse" for layer in report.layers)


def _read_metric(report: "Report", metric: str | None, which: str) -> float | None:
    return None if metric is None or report.accuracy is None else float(getattr(report.accuracy, which)[metric])


def _describe_host(report: "Report") -> str:
    works = () if report.device is None else report.device.on_host
    return "; ".join(f"{work.work}: {work.reason}" for work in works) or "nothing"


def _show(rows: Sequence[Row]) -> Measured:
    return Measured(rows, markdown_table(rows, COLUMNS))


PART = Part("gpu_device", "Whole exports with --device cuda against the CPU.", list_groups)

if __name__ == "__main__":
    sys.exit(run_part(PART))
