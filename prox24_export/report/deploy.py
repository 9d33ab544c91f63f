"""`DEPLOY.md`: the lines that build, compare and serve the files that a run wrote, made from what the report holds."""

import math
import shlex
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from prox24_export.output.destination import ABOVE, list_beside
from prox24_export.report import outcome, triton
from prox24_export.report.markdown_table import code_span, escape_text
from prox24_export.report.tables import number
from prox24_export.results.interface import TensorFacts
from prox24_export.results.report import LayerReport, Report

ONNX_MODEL, MODEL = "model.onnx", "model"
MANY = 3  # layers that are proposed to be left dense
SIZES = {"min": (1, 1), "opt": (8, 128), "max": (triton.MOST, 512)}  # of dynamic first axes, and of other ones
FLAGS_OF_10 = ("--stronglyTyped", "--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--separateProfileRun")
"""What trtexec 10 needs for strongly typed networks and for times of the GPU alone; 11 does so without being told."""
NO_SERVER = (
    "No server of large language models speeds up 2:4 weights today: vLLM removed its 2:4 kernels in 2026 (pull "
    "request 36799), and TensorRT-LLM's GEMM plugin hands products to cuBLASLt past all sparsity (TensorRT-LLM issues "
    "1559 and 1802). They load this directory and run it as a dense model, no faster."
)


def is_deployable(report: Report) -> bool:
    """Whether there is anything to deploy: a model with sparse layers whose files are known."""
    return bool(report.sparse_layers) and (bool(report.interface.inputs) or is_directory(report))


def is_directory(report: Report) -> bool:
    """Whether the run wrote a directory for transformers."""
    return f"{MODEL}/config.json" in report.files


def render(report: Report) -> str:
    """Renders the page; every path in it is relative to the output folder."""
    file, expected = find_engine_file(report), outcome.describe_expectation(report)
    said = (
        f"{outcome.describe_accuracy(report)}; {outcome.describe_layers(report)}.{f' {expected}.' if expected else ''}"
    )
    parts = [
        f"# Deploy\n\n{escape_text(said, 900)}\n\nRun these lines in the folder of this file.",
        _describe_size(report),
        _describe_directory() if is_directory(report) else "",
        _introduce(report, file) if file is not None else "",
        *(f"### {escape_text(title, 200)}\n\n{write_block(kind, *lines)}" for title, kind, lines in list_steps(report)),
        _propose_dense(report),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


class DeployStep(NamedTuple):
    """Lines to run or to write: what they are for, their language, and the lines."""

    title: str
    language: str
    lines: tuple[str, ...]


def list_steps(report: Report) -> list[DeployStep]:
    """The lines for every tool, in the order in which they are used; none where there is no ONNX file."""
    file = find_engine_file(report)
    if file is None or not is_deployable(report):
        return []
    both = ("enable", "disable")
    return [
        DeployStep("TensorRT 11", "sh", tuple(trtexec_line(report, file, 11, sparsity=way) for way in both)),
        DeployStep("TensorRT 10", "sh", tuple(trtexec_line(report, file, 10, sparsity=way) for way in both)),
        DeployStep(
            "Polygraphy", "sh", (f"polygraphy inspect sparsity {shlex.quote(file)}", polygraphy_line(report, file))
        ),
        DeployStep("ONNX Runtime", "python", tuple(onnxruntime_lines(file))),
        *_list_triton_steps(report, file),
    ]


def find_engine_file(report: Report) -> str | None:
    """The ONNX file that an engine is best built from: the one of the engine's precision, or else the model itself."""
    if not report.interface.inputs:
        return None
    written = sorted(name for name in report.files if name.startswith("engines/sparse.") and name.endswith(".onnx"))
    if written:
        return written[0]
    named = [ABOVE + name for name in list_beside(report.files) if name.lower().endswith(".onnx")]
    return next(iter(named), ONNX_MODEL if ONNX_MODEL in report.files else report.output.path.rpartition("/")[2])


def trtexec_line(report: Report, file: str, major: int, *, sparsity: str = "enable") -> str:
    """The line that builds an engine and times it, for TensorRT 10 or 11.

    Args:
        report: The run.
        file: The ONNX file, by its name in the output folder.
        major: The major version of TensorRT.
        sparsity: `enable` or `disable`.
    """
    engine = f"{file.removesuffix('.onnx').rpartition('/')[2]}.{'sparse' if sparsity == 'enable' else 'dense'}.engine"
    parts = [
        "trtexec",
        f"--onnx={file}",
        f"--sparsity={sparsity}",
        f"--saveEngine={engine}",
        *(f"--{kind}Shapes={shapes}" for kind in SIZES if (shapes := _list_shapes(report.interface.inputs, kind, ","))),
        *(FLAGS_OF_10 if major < 11 else ()),  # noqa: PLR2004 - the version that made them the default
    ]
    return shlex.join([*parts, "--verbose"])


def _inspect_line(file: str) -> str:
    return shlex.join(["polygraphy", "inspect", "sparsity", file])


def polygraphy_line(report: Report, file: str) -> str:
    """The line that compares the outputs of TensorRT with those of ONNX Runtime."""
    words = ["polygraphy", "run", file, "--trt", "--onnxrt", "--sparse-weights", "--strongly-typed"]
    for kind in SIZES:
        if shapes := _list_shapes(report.interface.inputs, kind, " "):
            words += [f"--trt-{kind}-shapes", *shapes.split(" ")]
    return shlex.join(words)


def _list_shapes(inputs: Sequence[TensorFacts], kind: str, separator: str) -> str:
    """The shapes of a profile; empty where no axis is dynamic."""
    if all(size >= 0 for tensor in inputs for size in tensor.shape):
        return ""
    first, other = SIZES[kind]
    shapes = {
        tensor.name: [size if size >= 0 else other if axis else first for axis, size in enumerate(tensor.shape)]
        for tensor in inputs
        if any(size < 0 for size in tensor.shape)
    }
    if separator == ",":
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return " ".join(f"{name}:[{','.join(map(str, shape))}]" for name, shape in shapes.items())


def _introduce(report: Report, file: str) -> str:
    """Which file engines are built from, and how to tell whether sparse kernels are faster."""
    precision = (
        f"{code_span(file)} holds the engine's types, which is what strongly typed networks need."
        if file.startswith("engines/")
        else f"TensorRT takes its types from the file, and {code_span(file)} has those of your model. Sparse kernels "
        "exist for fp16, bf16 and int8: run again with `--precision fp16` (and `--force`) where your model is float32, "
        "which also writes `engines/sparse.fp16.onnx`, and use that file below."
    )
    dynamic = any(size < 0 for tensor in report.interface.inputs for size in tensor.shape)
    sizes = " The sizes of dynamic axes are examples: put yours in their place." if dynamic else ""
    return (
        f"## Engines and servers\n\n{precision}{sizes} Build it twice, with sparse tactics and without them, and "
        "compare the median GPU compute times; the log of `--verbose` names the layers that were chosen."
    )


def onnxruntime_lines(file: str) -> list[str]:
    """A session of ONNX Runtime with its TensorRT provider and sparsity; it needs onnxruntime-gpu."""
    return [
        "import onnxruntime",
        "",
        "options = {",
        '    "trt_sparsity_enable": True,',
        '    "trt_fp16_enable": True,  # TensorRT 11 takes the types of the file, whatever this says',
        '    "trt_engine_cache_enable": True,',
        '    "trt_engine_cache_path": "trt_cache",',
        '    "trt_detailed_build_log": True,  # names the layers with sparse tactics',
        "}",
        'providers = [("TensorrtExecutionProvider", options), "CUDAExecutionProvider"]',
        f"session = onnxruntime.InferenceSession({file!r}, providers=providers)",
    ]


def _list_triton_steps(report: Report, file: str) -> list[DeployStep]:
    """Repository and configuration for Triton; none where an input or output is no tensor, which it does not serve."""
    name = triton.name_model(file.removeprefix(ABOVE) if file.startswith(ABOVE) else report.output.path)
    configuration = triton.configure(name, report.interface)
    if configuration is None:
        return []
    folder = f"triton/{name}"
    data = [known for known in report.files if known.startswith(file) and known != file]
    copies = [shlex.join(["cp", file, f"{folder}/1/{ONNX_MODEL}"])]
    copies += [shlex.join(["cp", known, f"{folder}/1/{known.rpartition('/')[2]}"]) for known in data]
    serve = 'tritonserver --model-repository="$PWD/triton"'
    return [
        DeployStep("Triton, its repository", "sh", (f"mkdir -p {folder}/1", *copies)),
        DeployStep(f"Triton, {folder}/config.pbtxt", "protobuf", tuple(configuration.splitlines())),
        DeployStep("Triton, the server", "sh", (serve,)),
    ]


def _describe_size(report: Report) -> str:
    """Why the file is no smaller than the dense one, and what a compressor makes of it."""
    before, after = report.input.bytes, report.output.bytes
    said = (
        "## Why the file is no smaller\n\nThe file stores zeros as it stores other numbers, so that every runtime can "
        f"read it: {_mb(before)} before, {_mb(after)} now. An engine stores two of four values and where they stood."
    )
    if report.compressed is None:
        return said
    share = 100 * report.compressed / after if after else 100.0
    return f"{said} Compressed (zlib, level 1) it takes {_mb(report.compressed)}, {number(share)} % of that."


def _describe_directory() -> str:
    return (
        f"## Servers\n\n{NO_SERVER}\n\n`model/` loads with `from_pretrained`. What can run 2:4 weights faster is an "
        "engine made of the ONNX file (`--onnx`), or `torch.sparse.to_sparse_semi_structured` on a GPU with sparse "
        "tensor cores."
    )


def _propose_dense(report: Report) -> str:
    """Which layers to leave dense where accuracy matters more, and what that buys."""
    units = report.budget.sensitivity.units if report.budget is not None else ()
    known = [layer for layer in report.sparse_layers if layer.relative_error is not None]
    known = [layer for layer in known if math.isfinite(layer.relative_error or 0.0)]
    if not known:
        return ""
    worst = sorted(known, key=lambda layer: -(layer.relative_error or 0.0))[:MANY]
    middle = median(layer.relative_error or 0.0 for layer in known)
    losses = {unit.name: unit for unit in units}
    whole = report.budget.sensitivity.pruned if report.budget is not None else 0.0
    lines = [
        f"- {code_span(layer.name)}: {number(100 * (layer.relative_error or 0.0))} % error, {_share(layer)}"
        + (f"; the outputs lose {number(losses[layer.name].restored)} with it dense" if layer.name in losses else "")
        for layer in worst
    ]
    exclude = shlex.join(part for layer in worst for part in ("--exclude", layer.name))
    measured = f" The outputs lose {number(whole)} with every layer pruned." if units else ""
    return (
        "## Which layers to leave dense\n\nWhere accuracy matters more than speed, leave those dense first whose error "
        f"is largest; half of the sparse layers have at most {number(100 * middle)} %.{measured} `--sensitivity` "
        "measures what each layer costs at the outputs, and `--budget` chooses the fewest that keep a limit.\n\n"
        + "\n".join(lines)
        + f"\n\n{write_block('sh', exclude)}"
    )


def _share(layer: LayerReport) -> str:
    return f"{number(100 * layer.share)} % of the parameters"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def write_block(language: str, *lines: str) -> str:
    """A fenced block; no line can end it."""
    fence = "`" * max(3, *(len(run) + 1 for line in lines for run in _runs_of_backticks(line)), 3)
    return "\n".join([f"{fence}{language}", *lines, fence])


def _runs_of_backticks(line: str) -> list[str]:
    return "".join(sign if sign == "`" else " " for sign in line).split()
