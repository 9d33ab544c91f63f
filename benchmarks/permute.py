"""The order of input channels: that every order computes the same, that the search finds the best, and what it gains.

    python benchmarks/permute.py [--parts spaces,search,criteria,gain] [--pictures FOLDER] [--seeds 5]
        [--shared] [--write]

With `--write`, parts that are not measured keep what stands in the results, and so do models and ways of `gain`.

`spaces`: every free channel space of a model is put in a random order, and both models run in float64 where they can.
`search`: small problems against all divisions, large ones against the clock.
`criteria`: layer errors that the solver leaves, by what the search counts.
`gain`: the whole command with `--permute no` and with the default, over seeds; accuracy on data used for nothing else.
Exits 1 where an order changes what a model computes, or the search misses its limits.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import DATA, DRAWS, MODELS, ROOT, available, export, mobilenet
from permute_models import small_models
from results_files import RESULTS, write_results
from torch.func import functional_call

from prox24_export.models.find_frontend import find_frontend
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.protocol import Feeds, TracedGraph
from prox24_export.passes.permute.apply import move_tensors
from prox24_export.passes.permute.aten_trace import open_as_module, trace_to_aten
from prox24_export.passes.permute.find_spaces import FindSpaces
from prox24_export.passes.permute.search import OrderedSpace, Saliency, compose
from prox24_export.solver.exchange import divide
from prox24_export.solver.layer import SolverSettings, solve_layer

Row = dict[str, Any]
FILES = {
    "digits sample": ROOT / "samples" / "digits" / "digits_vit.onnx",
    "KWT-1": DATA / "speech" / "kwt1_encoder.onnx",
    "ResNet-20": DATA / "images" / "resnet20.onnx",
    "Magika": DATA / "files" / "magika_v3_3.onnx",
    "stories260K": DATA / "lm" / "stories260K-hf",
    "MobileNetV1 0.25": DATA / "imagenet" / "mobilenetv1_0.25_224.onnx",
    "UltraFace": DATA / "edge" / "ultraface_rfb320.onnx",
    "VitTrack": DATA / "edge" / "vttrack_old.onnx",
    "mnist": DATA / "edge" / "mnist_cntk.onnx",
    "nnsplit": DATA / "edge" / "nnsplit_en.onnx",
}
EXACT, ROUNDED = 1e-12, 1e-4  # largest deviation in float64, and in float32 where a model casts to it
LIMITS = {(256, 1000): 3.0, (1024, 4096): 60.0}  # seconds
PROBLEMS = 500


def draw_feeds(graph: TracedGraph) -> dict[str, np.ndarray[Any, Any]]:
    """Two random samples."""
    random, feeds = np.random.default_rng(0), {}
    for value in graph.inputs:
        sizes = enumerate(value.shape or ())
        shape = [size if isinstance(size, int) else 16 if place else 2 for place, size in sizes]
        if np.issubdtype(value.dtype, np.floating):
            feeds[value.name] = random.normal(size=shape).astype(value.dtype)
        elif value.dtype == np.bool_:
            feeds[value.name] = np.ones(shape, np.bool_)
        else:
            feeds[value.name] = random.integers(0, graph.gathered_rows.get(value.name, 100), shape).astype(value.dtype)
    return feeds


def check_model(name: str, path: Path) -> Row:
    """The spaces of a model, and how far its twin in a random order is from it."""
    graph = find_frontend(path).open()
    feeds = draw_feeds(graph)
    found = FindSpaces().call(trace=trace_to_aten(graph, feeds), linears=FindLinears().call(graph=graph).linears)
    random, ordered = np.random.default_rng(0), []
    for space in found.free:
        order = np.arange(space.size)
        for block in space.blocks:
            channels = block.groups.reshape(-1)
            order[channels] = random.permutation(channels)
        ordered.append(OrderedSpace(space, order, 0.0))
    moved = move_tensors(graph, compose(ordered))
    reasons = Counter(space.reason for space in found.spaces if space.reason)
    try:
        deviation, precision = measure_deviation(graph, feeds, moved, torch.float64), "float64"
    except RuntimeError:  # the model casts to float32
        deviation, precision = measure_deviation(graph, feeds, moved, torch.float32), "float32"
    return {
        "model": name,
        "free": len(found.free),
        "fixed": len(found.spaces) - len(found.free),
        "moved": len(moved),
        "deviation": deviation,
        "precision": precision,
        "reasons": "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common()),
    }


def measure_deviation(graph: TracedGraph, feeds: Feeds, moved: Mapping[str, Any], dtype: torch.dtype) -> float:
    """The largest difference of an output, as a share of its largest entry."""
    module, stored = open_as_module(graph)
    place = {name: at for at, name in stored.items()}

    def widen(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    module = module.to(dtype)
    new = {place[name]: widen(as_tensor(np.ascontiguousarray(moved[name]))) for name in moved}
    inputs = tuple(widen(as_tensor(feeds[value.name])) for value in graph.inputs)
    with torch.no_grad():
        outputs = [functional_call(module, tensors, inputs) for tensors in ({}, new)]
    pairs = zip(*(found if isinstance(found, tuple) else (found,) for found in outputs), strict=True)
    return max(
        float((one.double() - other.double()).abs().max()) / (float(one.double().abs().max()) or 1.0)
        for one, other in pairs
        if one.numel()
    )


def check_spaces() -> Iterator[Row]:
    """Every model, ours and small random ones."""
    for name, path in FILES.items():
        if path.exists():
            yield check_model(name, path)
        else:
            print(f"skipped {name}: {path} is not there (set PROX24_TEST_DATA)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in small_models(Path(folder)):
            yield check_model(name, path)


def list_divisions(channels: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """Every division of channels into groups of four."""
    if not channels:
        return [[]]
    found = []
    for chosen in itertools.combinations(channels[1:], 3):
        group = (channels[0], *chosen)
        left = tuple(channel for channel in channels if channel not in group)
        found.extend([group, *rest] for rest in list_divisions(left))
    return found


def check_search() -> Iterator[Row]:
    """Small problems against the optimum, large ones against the clock."""
    for channels in (8, 12):
        divisions, near = list_divisions(tuple(range(channels))), 0
        for seed in range(PROBLEMS):
            costs = draw_costs(channels, int(np.random.default_rng(seed).integers(2, 60)), seed)
            groups = itertools.combinations(range(channels), 4)
            each = {group: float(np.sort(costs[list(group)], 0)[:2].sum()) for group in groups}
            whole, best = float(costs.sum()), min(sum(each[group] for group in division) for division in divisions)
            near += whole - divide(costs, starts=8).after >= 0.99 * (whole - best)
        share = near / PROBLEMS
        yield {"problem": f"K = {channels}", "share": share, "seconds": None, "holds": share >= 0.95}
    divide(draw_costs(16, 8, 0))  # compiled
    for (channels, rows), limit in LIMITS.items():
        costs, started = draw_costs(channels, rows, 0), time.perf_counter()
        found = divide(costs)
        seconds = time.perf_counter() - started
        yield {
            "problem": f"K = {channels:,}, N = {rows:,}",
            "share": 1 - found.after / found.before,
            "seconds": seconds,
            "holds": seconds <= limit,
        }


def draw_costs(channels: int, rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Squared normal numbers, with channels of different size."""
    random = np.random.default_rng([seed, channels])
    scale = np.exp(random.normal(size=(channels, 1)))
    return (scale * random.normal(size=(channels, rows)) ** 2).astype(np.float32)


def compare_criteria(pictures: Path | None) -> Iterator[Row]:
    """What the solver leaves of each layer of MobileNetV1 on the dense stream, in orders by two criteria."""
    if pictures is None:
        print("skipped criteria: --pictures FOLDER is not given", file=sys.stderr)
        return
    graph = find_frontend(FILES["MobileNetV1 0.25"]).open()
    linears = FindLinears().call(graph=graph).linears
    images, name = np.load(pictures / "calibration.npz")["input"][:128], graph.inputs[0].name
    grams: dict[str, Any] = {}
    wanted = [linear.uses[0].activation for linear in linears]
    run = graph.compile(graph.nodes, {name: images[:32]}, wanted, {})
    for first in range(0, len(images), 32):
        found = run({name: images[first : first + 32]})
        for linear in linears:
            for x in linear.uses[0].view.chunks(found[linear.uses[0].activation]):
                grams[linear.name] = grams.get(linear.name, 0) + x.double().T @ x.double()
    for linear in linears:
        weight, gram = graph.weight(linear)[:256], grams[linear.name]
        energy = weight.square() * gram.diagonal()
        costs = {"kept": None, "energy": energy.float(), "saliency": Saliency.of(weight, gram).cost}
        errors = {}
        for criterion, cost in costs.items():
            order = torch.arange(linear.k)
            if cost is not None:
                order = torch.from_numpy(divide((cost / cost.sum()).T.numpy(), starts=1).groups.reshape(-1))
            moved = gram[order][:, order]
            errors[criterion] = solve_layer(
                weight[:, order], moved, settings=SolverSettings(damping=0.01)
            ).relative_error
        yield {"layer": linear.name, "k": linear.k, **errors}


def measure_gain(seeds: int, pictures: Path | None, names: Sequence[str], ways: Sequence[str]) -> Iterator[Row]:
    """The command with and without another order, on another draw of the calibration samples for each seed.

    MobileNet takes all of its few pictures: of three seeds, and layer by layer.
    """
    cases: list[tuple[str, Any, str, int]] = []
    if pictures is not None:
        cases.append(("MobileNetV1 0.25", lambda _: mobilenet(pictures), "layer by layer", min(3, seeds)))
    cases += [(name, MODELS[name][1], way, seeds) for name in names for way in ways]
    for name, make, way, count in cases:
        if name in MODELS and not available(name):
            continue
        options = [*(["--no-refine"] if way == "layer by layer" else []), *_draw(name)]
        with tempfile.TemporaryDirectory() as folder:
            files = make(Path(folder))
            for seed, permute in itertools.product(range(count), ("no", "auto")):
                run = export(files, Path(folder), "--permute", permute, "--seed", str(seed), *options)
                errors = [layer["relative_error"] for layer in run.report["layers"] if layer["state"] == "sparse"]
                yield {
                    "model": name,
                    "way": way,
                    "seed": seed,
                    "permute": permute,
                    "dense": run.metric("dense"),
                    "sparse": run.metric("sparse"),
                    "snr_db": run.report["accuracy"]["outputs"][0].get("snr_db"),
                    "mean_error": float(np.mean(errors)),
                    "seconds": run.seconds,
                }


def _draw(name: str) -> list[str]:
    return ["--samples", str(DRAWS[name])] if name in MODELS else []


def tabulate_gain(rows: Sequence[Row]) -> list[str]:
    """The median over seeds of each model and way, without and with another order."""
    lines = ["| model | way | seeds | dense | kept | permuted | SNR, dB | mean layer error | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for model, way in dict.fromkeys((row["model"], row["way"]) for row in rows):
        mine = {
            permute: [row for row in rows if (row["model"], row["way"], row["permute"]) == (model, way, permute)]
            for permute in ("no", "auto")
        }

        def both(key: str, digits: int, of: Mapping[str, Sequence[Row]] = mine) -> list[str]:
            return [f"{np.median([row[key] for row in of[permute]]):.{digits}f}" for permute in ("no", "auto")]

        each = [", ".join(f"{row['sparse']:.2f}" for row in mine[permute]) for permute in ("no", "auto")]
        kept, permuted = (f"{median} ({seeds})" for median, seeds in zip(both("sparse", 2), each, strict=True))
        snr, error, seconds = (" → ".join(both(*key)) for key in (("snr_db", 1), ("mean_error", 5), ("seconds", 0)))
        if any(row.get("shared") for rows_of in mine.values() for row in rows_of):
            seconds = "shared machine"
        if any(row.get("threads") == 1 for rows_of in mine.values() for row in rows_of):
            seconds = "shared machine; from the second seed on, both ways side by side, one thread each"
        dense = f"{mine['no'][0]['dense']:.2f}"
        lines.append(
            f"| {model} | {way} | {len(mine['no'])} | {dense} | {kept} | {permuted} | {snr} | {error} | {seconds} |"
        )
    return lines


def tabulate(parts: Mapping[str, Sequence[Row]]) -> str:
    """All parts as Markdown."""
    lines: list[str] = []
    if rows := parts.get("spaces"):
        lines += ["Every free space in a random order against the model as it came:", ""]
        lines += [
            "| model | free | fixed | tensors moved | largest deviation | why fixed |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['model']} | {row['free']} | {row['fixed']} | {row['moved']} | {row['deviation']:.1e}, "
            f"{row['precision']} | {row['reasons']} |"
            for row in rows
        ]
    if rows := parts.get("search"):
        lines += ["", "The search: within 1 % of the best kept energy, and seconds:", ""]
        lines += ["| problem | within 1 %, or less cost | seconds | holds |", "|---|---|---|---|"]
        lines += [
            f"| {row['problem']} | {100 * row['share']:.1f} % | "
            f"{'' if row['seconds'] is None else format(row['seconds'], '.1f')} | {'yes' if row['holds'] else 'NO'} |"
            for row in rows
        ]
    if rows := parts.get("criteria"):
        less = [100 * np.median([1 - row[key] / row["kept"] for row in rows]) for key in ("energy", "saliency")]
        lines += [
            "",
            "MobileNetV1 0.25, each layer alone on the dense stream, at most 256 of its rows: what the solver leaves",
        ]
        lines += ["in the order of the file, in one by kept energy (w² Gₖₖ) and in one by saliency (w² / [H⁻¹]ₖₖ).", ""]
        lines += ["| layer | K | as it is | by energy | by saliency |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['layer']} | {row['k']} | {row['kept']:.5f} | {row['energy']:.5f} | {row['saliency']:.5f} |"
            for row in rows
        ]
        lines.append(f"| median, less error | | | {less[0]:.1f} % | {less[1]:.1f} % |")
    if rows := parts.get("gain"):
        lines += ["", "The command with `--permute no` and by default; medians over seeds, each seed in brackets:", ""]
        lines += tabulate_gain(rows)
    return "\n".join(lines).lstrip() + "\n"


def main() -> int:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description="Measures the order of input channels.")
    parser.add_argument("--parts", default="spaces,search,criteria,gain")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", default="ResNet-20,KWT-1,stories260K", help="of the part gain, by name")
    parser.add_argument("--ways", default="layer by layer,default", help="of the part gain")
    parser.add_argument("--pictures", type=Path, help="folder with what arrays.py of data/imagenet writes")
    parser.add_argument("--shared", action="store_true", help="other work runs beside it: seconds are left out")
    parser.add_argument("--write", action="store_true", help="write the result under benchmarks/results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's, about what it traces
    names = [name for name in arguments.models.split(",") if name]
    measures = {
        "spaces": check_spaces,
        "search": check_search,
        "criteria": lambda: compare_criteria(arguments.pictures),
        "gain": lambda: measure_gain(arguments.seeds, arguments.pictures, names, arguments.ways.split(",")),
    }
    parts: dict[str, list[Row]] = {}
    for part in arguments.parts.split(","):
        parts[part] = []
        for row in measures[part]():
            print(part, row, file=sys.stderr, flush=True)
            parts[part].append(row | ({"shared": True} if arguments.shared and part == "gain" else {}))
            if arguments.write:
                joined = join_parts(parts)
                every = [{"part": name} | entry for name, rows in joined.items() for entry in rows]
                write_results("permute", every, tabulate(joined))
    print(tabulate(parts))
    wrong = [row for row in parts.get("spaces", ()) if not row["deviation"] <= limit_of(row)]
    slow = [row for row in parts.get("search", ()) if not row["holds"]]
    return 1 if wrong or slow else 0


def join_parts(parts: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The parts that stand in the results, with these in their place; of `gain`, the same models and ways."""
    file = RESULTS / "permute.json"
    joined: dict[str, list[Row]] = {"spaces": [], "search": [], "criteria": [], "gain": []}
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []:
        joined[row["part"]].append({key: value for key, value in row.items() if key != "part"})
    for part, rows in parts.items():
        measured = {(row["model"], row["way"]) for row in rows} if part == "gain" else set()
        kept = [row for row in joined[part] if (row["model"], row["way"]) not in measured] if part == "gain" else []
        joined[part] = [*kept, *rows]
    return joined


def limit_of(row: Row) -> float:
    """The largest deviation that rounding explains."""
    return EXACT if row["precision"] == "float64" else ROUNDED


if __name__ == "__main__":
    sys.exit(main())
