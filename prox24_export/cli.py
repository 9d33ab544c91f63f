"""Arguments → Settings; exit codes; nothing else. Imports neither torch nor ONNX Runtime before it must."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from prox24_export import config
from prox24_export import shapes as profiles
from prox24_export.errors import InputError, Prox24Error
from prox24_export.progress import Silent, Terminal
from prox24_export.settings import Effort, Engine, Method, Precision, Refine, RefineMode, Settings

if TYPE_CHECKING:
    from prox24_export.results.report import Report

PASSED, GATE_FAILED, UNUSABLE, FAILED, INTERRUPTED = 0, 1, 2, 4, 130

Format = Literal["text", "github", "github-benchmark", "github-benchmark-bigger"]

EPILOGUE = """\
Exit codes: 0 exported and every gate passed (also: nothing eligible) · 1 exported, a gate failed · 2 usage, or
unsuitable input, nothing written · 3 an engine that was asked for cannot be had here, nothing written · 4 the run
failed, nothing written · 130 interrupted, nothing written.
"""

USAGE = """\
Usage: prox24-export [OPTIONS] MODEL
       prox24-export inspect [OPTIONS] MODEL
       prox24-export bench [OPTIONS] DENSE SPARSE
       prox24-export report [OPTIONS] RUN [OTHER]"""

app = App(
    name="prox24-export",
    usage=USAGE,
    help="Turns a trained ONNX model into a verified 2:4-sparse one, nearly as accurate as the dense one.",
    help_epilogue=EPILOGUE,
    version_flags=["--version"],
    config=config.sources(),
)


@app.default
def export(
    model: Path,
    /,
    *,
    calibration: str | None = None,
    evaluation: str | None = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    method: Method = "prox",
    effort: Effort = "default",
    include: Annotated[list[str] | None, Parameter(negative="")] = None,
    exclude: Annotated[list[str] | None, Parameter(negative="")] = None,
    samples: int | None = None,
    seed: int = 0,
    shapes: Annotated[list[str] | None, Parameter(negative="")] = None,
    damping: float | None = None,
    blend: float | None = None,
    sequence: int = 256,
    stride: int | None = None,
    metric: str | None = None,
    max_accuracy_drop: float | None = None,
    min_snr: float | None = None,
    refine: Refine = "auto",
    no_refine: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    refine_mode: RefineMode = "auto",
    refine_minutes: float | None = None,
    refine_loss: str | None = None,
    engine: Engine = "auto",
    precision: Precision | None = None,
    min_speedup: float | None = None,
    min_sparse_layers: int | None = None,
    max_metric_change: float | None = None,
    budget: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    strict: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    baseline: str | None = None,
    workspace_mb: int | None = None,
    timing_cache: str | None = None,
    offload: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    onnx: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    format: Format = "text",  # noqa: A002 (the option's name)
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False,
    plan: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    sensitivity: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Prune MODEL to 2:4 sparsity, verify what was written, and measure its accuracy.

    Args:
        model: An .onnx file, a Hugging Face directory with safetensors, a .pt2 file, or module:function that returns
            a torch module and example inputs. It is never modified.
        calibration: Unlabelled samples: .npz (arrays named as the inputs), .npy, a folder of .npz, .txt for a directory
            with a tokenizer, or module:function. Default: none; then inputs are random and the masks not based on data.
        evaluation: Samples for the accuracy, as for --calibration, with an array `labels` for top-1. Default: a
            fifth of the calibration samples is set aside.
        out: Folder to write. Default: MODEL_STEM-2to4 in the current folder.
        method: Mask solver; the last three are baselines to compare with.
        effort: Of the mask solver: less error for more time.
        include: Prune only layers whose node or weight name matches this glob. May be repeated. Default: all.
        exclude: Leave layers whose node or weight name matches this glob dense. May be repeated. Default: none.
        samples: Use at most so many calibration samples, drawn with --seed. Default: all; 32 random ones.
        seed: Of every random choice.
        shapes: Shape of an input, e.g. image:1x3x224x224, or smallest, likeliest and largest with commas between:
            of random inputs, of engines and of what is timed. May be repeated. Default: dynamic axes are 1 (the
            first) and 32 where inputs are random; timed are 1 and up to 32 samples.
        damping: Share of the mean diagonal added to every Gram matrix. Default: from tokens per input dimension.
        blend: 0 aims at the dense weights, 1 at the dense network's outputs. Default: chosen on held-back samples.
        sequence: Tokens in a row of a text file.
        stride: Tokens by which windows over an evaluation text advance. Default: they do not overlap.
        metric: Your own metric, module:function; see README. Default: top-1 with labels, perplexity of language models.
        max_accuracy_drop: Gate: most percentage points of top-1 that may be lost. Default: no gate.
        min_snr: Gate: least signal-to-noise ratio of every float output, in dB. Default: no gate.
        refine: What moves when all layers are tuned together against the dense outputs. Default: surviving weights,
            where there are calibration samples, 8 of them held back, --method is no baseline and it takes at most 4 GB.
        no_refine: Leave the weights as they were solved layer by layer, as --refine no does. Default: tune them.
        refine_mode: All layers at once, or a segment (a block) at a time in the memory of one.
        refine_minutes: Most minutes spent on it. Default: 10; none with --refine weights, weights+bias or all.
        refine_loss: Your own measure of pruned against dense outputs, module:function; see README. Default: detected.
        engine: What latency is measured with. Default: TensorRT, else torch.sparse on a CUDA GPU, else nothing.
        precision: Of the engines; ONNX files in it are written to OUT/engines. Default: fp16 where TensorRT builds.
        min_speedup: Gate: least speed-up; the lower end of its interval counts. Default: no gate.
        min_sparse_layers: Gate: fewest layers that must be sparse. Default: no gate.
        max_metric_change: Gate: most that a metric other than top-1 may change for the worse. Default: no gate.
        budget: Leave the fewest layers dense that keep --max-accuracy-drop or --max-metric-change. Default: none.
        strict: Gates look at the bad end of a figure's interval. Default: at the figure.
        baseline: report.json of an earlier run, against which nothing may regress. Default: no gate.
        workspace_mb: Most MB of scratch memory a TensorRT tactic may use. Default: all there is.
        timing_cache: Tactic timings of earlier TensorRT builds to start from. Default: none.
        offload: Keep activations between stages on disk, beside the output folder. Default: in memory.
        onnx: Also write model.onnx of a Hugging Face directory. Default: only the directory. Other torch models always
            give one.
        force: Replace a finished run in the output folder. Default: refuse.
        format: Of what is printed: for people; annotations and step summary of GitHub Actions; entries of
            github-action-benchmark of which smaller, or bigger, ones are better.
        quiet: Show no progress. Default: bars on a terminal, else a line for each stage.
        plan: Only print the peak memory and the time that the run would take. Default: run.
        sensitivity: Only print how much the outputs lose by each layer, measured. Default: run.
    """
    if no_refine and refine not in {"auto", "no"}:
        raise InputError(f"--no-refine and --refine {refine} contradict each other. Leave one of them out.")
    settings = Settings(
        method=method,
        effort=effort,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        samples=samples,
        seed=seed,
        shapes=profiles.parse(shapes or ()),
        damping=damping,
        blend=blend,
        sequence=sequence,
        stride=stride,
        metric=metric,
        max_accuracy_drop=max_accuracy_drop,
        min_snr=min_snr,
        refine="no" if no_refine else refine,
        refine_mode=refine_mode,
        refine_minutes=refine_minutes,
        refine_loss=refine_loss,
        engine=engine,
        precision=precision,
        min_speedup=min_speedup,
        min_sparse_layers=min_sparse_layers,
        max_metric_change=max_metric_change,
        budget=budget,
        strict=strict,
        baseline=baseline,
        workspace_mb=workspace_mb,
        timing_cache=timing_cache,
        offload=offload,
        onnx=onnx,
        force=force,
    )
    from prox24_export import pipeline  # noqa: PLC0415 (torch and ONNX Runtime load here)
    from prox24_export.report import terminal  # noqa: PLC0415

    if plan and sensitivity:
        raise InputError("--plan and --sensitivity print different things. Leave one of them out.")
    progress = Silent() if quiet else Terminal()
    if plan:
        planned = pipeline.plan(model, calibration, evaluation=evaluation, settings=settings, progress=progress)
        _print(terminal.plan_table(planned))
        return PASSED
    if sensitivity:
        from prox24_export.report import budget_text  # noqa: PLC0415

        lost = pipeline.sensitivity(model, calibration, evaluation=evaluation, settings=settings, progress=progress)
        _print(budget_text.sensitivity_table(lost))
        return PASSED
    report = pipeline.export(model, calibration, out, evaluation=evaluation, settings=settings, progress=progress)
    _print(_formatted(report, format))
    return PASSED if report.passed else GATE_FAILED


def _formatted(report: "Report", format: Format) -> str:  # noqa: A002 (the option's name)
    """What stdout gets. With `github` the step's summary gets the report, too."""
    from prox24_export.report import github, github_benchmark, terminal  # noqa: PLC0415

    if format == "github":
        return github.render(report) + github.append_summary(report, os.environ)
    if format != "text":
        return github_benchmark.render(report, "lower" if format == "github-benchmark" else "higher")
    return terminal.render(report)


@app.command(usage="Usage: prox24-export bench [OPTIONS] DENSE SPARSE", help_epilogue="")
def bench(
    dense: Path,
    sparse: Path,
    /,
    *,
    batch: Annotated[list[int] | None, Parameter(negative="")] = None,
    inputs: str | None = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    engine: Engine = "auto",
    precision: Precision | None = None,
    shapes: Annotated[list[str] | None, Parameter(negative="")] = None,
    min_speedup: float | None = None,
    workspace_mb: int | None = None,
    timing_cache: str | None = None,
    seed: int = 0,
    force: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Time DENSE against SPARSE, in turns and on the same inputs, over batch sizes.

    Args:
        dense: An .onnx file, or a TensorRT engine (.engine, .plan).
        sparse: The same; engines are timed as they are, with --inputs.
        batch: Size of the first axis, one point each. May be repeated. Default: 1, 8 and 32 where it is dynamic.
        inputs: Samples, as for --calibration. Default: random ones.
        out: Folder to write. Default: SPARSE_STEM-bench in the current folder.
        engine: What to time with. Default: TensorRT, else torch.sparse on a CUDA GPU, else ONNX Runtime on the CPU.
        precision: Of the engines. Default: fp16.
        shapes: Shape of an input, or smallest, likeliest and largest, as for the main command. Default: from --batch.
        min_speedup: Gate: least speed-up; the lower end of its interval counts. Default: no gate.
        workspace_mb: Most MB of scratch memory a TensorRT tactic may use. Default: all there is.
        timing_cache: Tactic timings of earlier TensorRT builds to start from. Default: none.
        seed: Of random inputs.
        force: Replace a finished run in the output folder. Default: refuse.
    """
    settings = Settings(
        engine=engine,
        precision=precision,
        shapes=profiles.parse(shapes or ()),
        min_speedup=min_speedup,
        workspace_mb=workspace_mb,
        timing_cache=timing_cache,
        seed=seed,
        force=force,
    )
    from prox24_export import bench as benchmark  # noqa: PLC0415
    from prox24_export.report import terminal  # noqa: PLC0415

    if any(size < 1 for size in batch or ()):
        raise InputError(f"--batch must be 1 or more. Got {min(batch or ())}.")
    report = benchmark.bench(dense, sparse, out, batches=batch or (), inputs=inputs, settings=settings)
    _print(terminal.latency_table(report))
    return PASSED if report.passed else GATE_FAILED


@app.command(usage="Usage: prox24-export report [OPTIONS] RUN [OTHER]", help_epilogue="")
def report(
    run: Path,
    other: Path | None = None,
    /,
    *,
    format: Literal["text", "markdown"] = "text",  # noqa: A002 (the option's name)
) -> int:
    """Make the files of a finished run again from its report.json; with two runs, compare them.

    Args:
        run: Output folder of a run.
        other: Output folder, or report.json, of a later run to compare with it; then nothing is written.
        format: Of the comparison.
    """
    from prox24_export.report import compare, rerender  # noqa: PLC0415
    from prox24_export.results import reader  # noqa: PLC0415

    if other is None:
        _print("".join(f"{path}\n" for path in rerender.rerender(run)))
        return PASSED
    both = reader.load(run), reader.load(other)
    _print(compare.render_markdown(*both) if format == "markdown" else compare.render_text(*both))
    return PASSED


@app.command(usage="Usage: prox24-export inspect [OPTIONS] MODEL", help_epilogue="")
def inspect(
    model: Path,
    /,
    *,
    include: Annotated[list[str] | None, Parameter(negative="")] = None,
    exclude: Annotated[list[str] | None, Parameter(negative="")] = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 (the option's name)
) -> int:
    """List every linear layer of MODEL: what would be pruned, what not, and why.

    Args:
        model: As for the main command.
        include: As for the main command. Default: all.
        exclude: As for the main command. Default: none.
        format: A table to read, or JSON.
    """
    from prox24_export import pipeline  # noqa: PLC0415
    from prox24_export.report import terminal  # noqa: PLC0415

    layers = pipeline.inspect_layers(model, Settings(include=tuple(include or ()), exclude=tuple(exclude or ())))
    _print(terminal.layers_json(layers) if format == "json" else terminal.layers_table(layers))
    return PASSED


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # a stopped CI job cleans up like an interrupted one
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or PASSED
    except CycloptsError as error:
        return _say(f"{error} See prox24-export --help.", UNUSABLE)
    except Prox24Error as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted; nothing was written.", INTERRUPTED)
    except OSError as error:
        return _say(f"cannot write the output: {error}. Nothing was left behind.", FAILED)
    except Exception as error:
        if os.environ.get("PROX24_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return _say(f"internal error: {text}. Nothing was written. Set PROX24_TRACEBACK=1 for the traceback.", FAILED)


def _print(text: str) -> None:
    """The result to stdout, in what it can encode. A reader that has gone away takes nothing from the verdict."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if not isinstance(error, BrokenPipeError):
            raise Prox24Error(f"cannot print the result: {error}. An exported folder is complete.") from error


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"prox24-export: {' '.join(message.split())}\n")
    return code


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
