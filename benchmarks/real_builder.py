"""Every file that an export writes for an engine, through a real NVIDIA builder: faults, and the layers that it names.

    python -m benchmarks.real_builder [--models KWT-1,Magika] [--precisions fp16,bf16] [--write]

The command exports each model with `--precision`, by the shortest settings, because only the structure of the files
counts here. The builder is TensorRT for RTX, whose libraries `PROX24_TRT_RTX` names; it needs no GPU. A file is right
where it is parsed and built without a warning or an error, and every node that multiplies by a weight which can be
pruned is named in a layer of the engine. In INT8 files, 90 % of these nodes have to read and store INT8, and INT8 has
to leave 80 % of those whose result is quantised: from their own kernel or from the one that applies their bias. Exits
1 where one is not right, and 2 where the libraries are not there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx

from benchmarks.models import DATA, ROOT, save
from benchmarks.results_files import write_results
from prox24_export.data.random_samples import draw_random
from prox24_export.models.find_frontend import find_frontend
from prox24_export.shapes import parse_shapes
from tests.engines.tensorrt.real_builder.build import (
    VARIABLE,
    NoLibrariesError,
    RealBuilderError,
    build,
    find_libraries,
    find_linear_nodes,
)
from tests.engines.tensorrt.real_builder.layers import find_int8_uses
from tests.engines.tensorrt.real_builder.library import VERSION

PRECISIONS = ("fp16", "bf16", "int8")
IN_INT8, LEAVE_IN_INT8 = 0.9, 0.8  # least share of products in INT8, and of those with a quantised result that leave so
RANDOM_SAMPLES = 16  # of which INT8 scales are made where a model has none of its own here
QUICK = ("--method", "magnitude", "--refine", "no", "--permute", "no", "--samples", "16", "--engine", "none", "--force")
DIGITS = ROOT / "samples" / "digits"
COLUMNS = (
    *("model", "precision", "ONNX nodes", "linear layers", "named in the engine"),
    *("read and store INT8", "of those with a quantised result, INT8 leaves", "from their own kernel"),
    *("engine layers", "notices", "warnings", "errors", "seconds"),
)
SHOWN = 300  # characters of a fault


@dataclass(frozen=True)
class Source:
    """A model and how it is exported.

    Attributes:
        path: The file or directory.
        options: What the command needs to be told beside the precision.
        shapes: The range of shapes of its inputs, as `--shapes` takes it; empty for sizes of 1 to 16.
    """

    path: Path
    options: tuple[str, ...] = ()
    shapes: str = ""


@dataclass(frozen=True)
class Row:
    """What the builder made of one file.

    Attributes:
        model: The name of the model.
        precision: The precision of the file.
        nodes: The number of ONNX nodes of the file.
        linear: How many nodes multiply by a weight that can be pruned.
        named: How many of them a layer of the engine names.
        int8: How many of them read and store INT8.
        floats: How many of these have a result that the file does not quantise, as the report says, each with a reason.
        leaves: How many of the others write INT8, from their own kernel or from that of their bias and quantiser.
        whole: How many of these write it from their own kernel.
        layers: The number of layers of the engine.
        notices: The number of notices that say what a file cannot do better, such as of 64-bit inputs.
        warnings: The number of warnings.
        errors: The number of errors.
        seconds: The wall time of the builder's process, in seconds.
        faults: What is wrong, a sentence each.
    """

    model: str
    precision: str
    nodes: int = 0
    linear: int = 0
    named: int = 0
    int8: int = 0
    floats: int = 0
    leaves: int = 0
    whole: int = 0
    layers: int = 0
    notices: int = 0
    warnings: int = 0
    errors: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


SOURCES = {
    "digits sample": Source(
        DIGITS / "digits_vit.onnx",
        ("--calibration", str(DIGITS / "calibration.npz"), "--evaluation", str(DIGITS / "evaluation.npz")),
        "image:1x1x8x8,8x1x8x8,64x1x8x8",
    ),
    "KWT-1": Source(DATA / "speech" / "kwt1_encoder.onnx"),
    "ResNet-20": Source(DATA / "images" / "resnet20.onnx"),
    "Magika": Source(DATA / "files" / "magika_v3_3.onnx"),
    "MobileNetV1 0.25": Source(DATA / "imagenet" / "mobilenetv1_0.25_224.onnx"),
    "stories260K": Source(DATA / "lm" / "stories260K-hf", ("--onnx",), "input_ids:1x8,4x64,8x256"),
    "VitTrack": Source(DATA / "edge" / "vttrack_old.onnx"),
    "UltraFace": Source(DATA / "edge" / "ultraface_rfb320.onnx"),
    "nnsplit": Source(DATA / "edge" / "nnsplit_en.onnx", shapes="input:1x32,4x64,8x128"),
    "mnist (CNTK)": Source(DATA / "edge" / "mnist_cntk.onnx"),
}


def check_models(names: Sequence[str], precisions: Sequence[str]) -> Iterator[Row]:
    """Exports each model in each precision, and yields what the builder made of the sparse file."""
    for name in names:
        source = SOURCES[name]
        if not source.path.exists():
            print(f"skipped {name}: {source.path} is not there (set PROX24_TEST_DATA)", file=sys.stderr)
            continue
        for precision in precisions:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                command = [sys.executable, "-m", "prox24_export", str(source.path), "--precision", precision]
                command += ["--out", str(out), *QUICK, *source.options]
                if precision == "int8" and "--calibration" not in command:
                    command += ["--calibration", str(draw_samples(source, Path(folder) / "random.npz"))]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                file = out / "engines" / f"sparse.{precision}.onnx"
                if done.returncode or not file.is_file():
                    said = done.stderr.strip().rpartition("\n")[2] or "no file was written"
                    yield Row(name, precision, faults=[f"the export ended with {done.returncode}: {said}"])
                else:
                    yield check_file(
                        name,
                        precision,
                        file,
                        find_linear_nodes(out / "model.onnx"),
                        source.shapes,
                        json.loads((out / "report.json").read_text(encoding="utf-8"))["engine"]["float_outputs"],
                    )


def draw_samples(source: Source, path: Path) -> Path:
    """Writes random samples of a model's inputs, at the likeliest shapes; they serve for scales, and nothing else."""
    graph = find_frontend(source.path).open()
    shapes = {name: given.opt for name, given in (parse_shapes([source.shapes]) if source.shapes else {}).items()}
    likeliest = {name: (1, *shape[1:]) for name, shape in shapes.items()}
    samples = draw_random(graph.inputs, graph.gathered_rows, likeliest, RANDOM_SAMPLES, 0)
    arrays = {name: np.concatenate([sample.feeds[name] for sample in samples]) for name in samples[0].feeds}
    return save(path, **arrays)


def check_file(  # noqa: PLR0917 - a file, and what is known of it
    name: str,
    precision: str,
    file: Path,
    linear: Sequence[str],
    shapes: str = "",
    floats: Collection[str] = (),
) -> Row:
    """Puts one file through the builder.

    Args:
        name: The name of the model, for the table.
        precision: The precision, for the table.
        file: The ONNX file.
        linear: The nodes that a layer of the engine must name.
        shapes: The range of shapes of its inputs, as `--shapes` takes it.
        floats: The nodes in INT8 whose result the file does not quantise.
    """
    nodes = len(onnx.load(file, load_external_data=False).graph.node)
    started = time.perf_counter()
    try:
        engine = build(file, shapes=parse_shapes([shapes]) if shapes else None)
    except RealBuilderError as error:
        return Row(name, precision, nodes, len(linear), faults=[str(error)])
    seconds = time.perf_counter() - started
    uses = find_int8_uses(engine.layers, linear)
    inside = [node for node, use in uses.items() if use.reads and use.stores]
    leaving = [node for node in inside if node not in floats]
    faults = [" ".join(fault.split())[:SHOWN] for fault in engine.find_faults(linear)]
    if precision == "int8":
        faults += find_float_faults(len(linear), len(inside), len(leaving), sum(uses[node].leaves for node in leaving))
    return Row(
        name,
        precision,
        nodes,
        len(linear),
        len(linear) - len(engine.find_unnamed(linear)),
        len(inside),
        len(inside) - len(leaving),
        sum(uses[node].leaves for node in leaving),
        sum(uses[node].is_whole for node in leaving),
        len(engine.layers),
        len(engine.notices),
        len(engine.warnings),
        len(engine.errors),
        round(seconds, 1),
        faults,
    )


def find_float_faults(linear: int, inside: int, quantised: int, leaving: int) -> Iterator[str]:
    """Tells where too much of an INT8 file is computed in float.

    Args:
        linear: The number of nodes that multiply by a weight.
        inside: How many of them read and store INT8.
        quantised: How many of these have a quantised result.
        leaving: How many of those INT8 leaves.
    """
    if inside < IN_INT8 * linear:
        yield f"{inside} of {linear} products read and store INT8"
    if leaving < LEAVE_IN_INT8 * quantised:
        yield f"INT8 leaves {leaving} of {quantised} products whose result is quantised"


def tabulate(rows: Sequence[Row]) -> str:
    """The rows as Markdown, and what is wrong below them."""
    wrong = sum(bool(row.faults) for row in rows)
    lines = [
        f"TensorRT for RTX {VERSION}, ahead of time for compute capability 8.9: {len(rows)} files, {wrong} wrong.",
        "Seconds are of the builder's process. A notice is what every input of 64-bit integers gets, and no warning.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    lines += [
        f"| {row.model} | {row.precision} | {row.nodes} | {row.linear} | {row.named} | "
        f"{_tell_int8(row)} | {row.layers} | "
        f"{row.notices} | {row.warnings} | {row.errors} | {row.seconds} |"
        for row in rows
    ]
    faults = [f"- {row.model}, {row.precision}: {fault}" for row in rows for fault in row.faults]
    return "\n".join([*lines, *(["", *faults] if faults else [])]) + "\n"


def _tell_int8(row: Row) -> str:
    """How many products read and store INT8, how many it leaves of those whose result is quantised, by which kernel."""
    if row.precision != "int8":
        return "|  | "
    return f"{row.int8} | {row.leaves} of {row.int8 - row.floats} | {row.whole}"


def main() -> int:
    """Checks all files."""
    parser = argparse.ArgumentParser(description="Puts emitted files through a real NVIDIA builder.")
    parser.add_argument("--models", default=",".join(SOURCES), help="their names, separated by commas")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="separated by commas")
    parser.add_argument("--write", action="store_true", help="write the result under benchmarks/results")
    arguments = parser.parse_args()
    try:
        find_libraries()
    except NoLibrariesError as error:
        print(f"{error}. See {VARIABLE} in CONTRIBUTING.md.", file=sys.stderr)
        return 2
    rows = []
    for row in check_models(arguments.models.split(","), arguments.precisions.split(",")):
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    table = tabulate(rows)
    print(table)
    if arguments.write:
        write_results("real_builder", [asdict(row) for row in rows], table, facts={"tensorrt_rtx": VERSION})
    return 1 if any(row.faults for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
