"""Arguments → Settings; exit codes; nothing else. Imports neither torch nor ONNX Runtime before it must."""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnusedCliTokensError

from prox24_export.errors import InputError, Prox24Error, UnavailableError, describe_fault
from prox24_export.option_values import GpuName
from prox24_export.options import config
from prox24_export.process import interrupts
from prox24_export.process.printable import escape, make_printable
from prox24_export.process.stderr import open_stderr
from prox24_export.progress import Silent, Terminal
from prox24_export.settings import DATA, ENGINES, OUTPUT, REFINEMENT, BenchSettings, InspectSettings, Settings

if TYPE_CHECKING:
    from prox24_export.results.report import Report

PASSED, GATE_FAILED, UNUSABLE, UNAVAILABLE, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
OURS = "prox24_export"

Format = Literal["text", "github", "github-benchmark", "github-benchmark-bigger"]
EACH_FIELD = Parameter(name="*")  # the settings' fields are the command's options
OUT = Parameter(name=("--out", "-o"))

USAGE = """\
Usage: prox24-export [OPTIONS] MODEL
       prox24-export inspect [OPTIONS] MODEL
       prox24-export bench [OPTIONS] DENSE SPARSE
       prox24-export report [OPTIONS] RUN [OTHER]
       prox24-export completion SHELL
       prox24-export cache [--clear]

Examples:
  prox24-export model.onnx --calibration samples.npz --evaluation labelled.npz
  prox24-export bench model.onnx model-2to4/model.onnx --batch 1 --batch 8"""

EPILOGUE = """\
The exit code says how it went:

- 0: The model was exported and kept every limit, or no layer could be pruned.
- 1: The model was exported. A limit was not kept, or a later stage failed, which the report names.
- 2: The options, the model or the data are unsuitable. Nothing was written.
- 3: An engine that was asked for, or a library that is needed, cannot be used here. Nothing was written.
- 4: The run failed. Nothing was written, unless the message names a folder.
- 130: The run was interrupted. Nothing was written, unless the message names a folder. Where layers were solved, the
  same command goes on from there.
"""


def _shown_default(value: object) -> str | None:
    """What the help shows of a default; its sentence says what leaving out a flag or a list of values means."""
    return None if value is None or isinstance(value, bool | tuple | dict) else str(value)


PLAIN = Parameter(negative=(), show_default=_shown_default)  # of every option; a flag has no --no-… beside it

app = App(
    name="prox24-export",
    usage=USAGE,
    help=(
        "Turns a trained ONNX, torch or transformers model into a verified 2:4-sparse one, nearly as accurate as the "
        "dense one."
    ),
    help_epilogue=EPILOGUE,
    version_flags=["--version"],
    config=config.list_sources(),
    default_parameter=PLAIN,
)


@app.default
def export(
    model: Path,
    /,
    *,
    calibration: Annotated[str | None, DATA, config.PATH] = None,
    evaluation: Annotated[str | None, DATA, config.PATH] = None,
    out: Annotated[Path | None, OUTPUT, OUT, config.PATH] = None,
    settings: Annotated[Settings, EACH_FIELD] = Settings(),  # noqa: B008 - frozen
    no_refine: Annotated[bool, REFINEMENT] = False,
    format: Annotated[Format, OUTPUT] = "text",  # noqa: A002 - the option's name
    quiet: Annotated[bool, OUTPUT, Parameter(name=("--quiet", "-q"))] = False,
    plan: Annotated[bool, OUTPUT] = False,
    sensitivity: Annotated[bool, OUTPUT] = False,
) -> int:
    """Prune MODEL to 2:4 sparsity, verify what was written, and measure its accuracy.

    Args:
        model: An .onnx file, a Hugging Face directory with safetensors, a .pt2 file, or module:function that returns
            a torch module and example inputs. It is never modified.
        calibration: Samples to prune with, which need no labels: .npz (with arrays named as the inputs), .npy, a
            folder of .npz or of pictures, .txt or .jsonl for a model with a tokenizer, or module:function. By default,
            inputs are random and the masks are not based on data.
        evaluation: Samples to measure the accuracy on, in the forms of --calibration; an array `labels`, or a folder
            for each class of pictures, gives top-1. By default, a fifth of the calibration samples is set aside for
            it.
        out: The folder to write, or a name such as x.onnx for the ONNX file (and x.onnx.data); everything else is in
            the folder x-report then. By default, it is the folder MODEL_STEM-2to4 in the current folder.
        settings: What the run does.
        no_refine: Leave the weights as they were solved layer by layer, as --refine no does. By default, they are
            tuned together as --refine says.
        format: What is printed: `text` is for people; `github` is annotations and the step summary for GitHub Actions;
            `github-benchmark` and `github-benchmark-bigger` are the entries for github-action-benchmark of which
            smaller, or bigger, ones are better.
        quiet: Show no progress. By default, it is shown as bars on a terminal, else as a line for each stage.
        plan: Only print how much memory and time the run would take, or what is left of one that was interrupted. By
            default, the run takes place.
        sensitivity: Only measure and print how much the outputs lose by each layer. By default, the run takes place.
    """
    if plan and sensitivity:
        raise InputError("--plan and --sensitivity print different things. Leave one of them out.")
    settings = _leave_unrefined(settings) if no_refine else settings
    progress = Silent() if quiet else Terminal().begin()
    from prox24_export import pipeline  # noqa: PLC0415 (torch and ONNX Runtime load here)
    from prox24_export.report import terminal  # noqa: PLC0415

    if plan:
        planned = pipeline.plan(model, calibration, out, evaluation=evaluation, settings=settings, progress=progress)
        _print(terminal.plan_table(planned))
        return PASSED
    if sensitivity:
        from prox24_export.report import terminal_budget  # noqa: PLC0415

        lost = pipeline.sensitivity(model, calibration, evaluation=evaluation, settings=settings, progress=progress)
        _print(terminal_budget.sensitivity_table(make_printable(lost)))
        return PASSED
    report = pipeline.export(model, calibration, out, evaluation=evaluation, settings=settings, progress=progress)
    _print(_formatted(make_printable(report), format))
    return PASSED if report.passed else GATE_FAILED


def _leave_unrefined(settings: Settings) -> Settings:
    """What --no-refine makes of the other options.

    Raises:
        InputError: One of them asks for the refinement.
    """
    if settings.refine not in {"auto", "no"}:
        raise InputError(f"--no-refine and --refine {settings.refine} contradict each other. Leave one of them out.")
    try:
        return replace(settings, refine="no")
    except InputError as error:
        raise InputError(f"--no-refine stands for --refine no, and {error}") from error


def _formatted(report: "Report", format: Format) -> str:  # noqa: A002 - the option's name
    """Gives what stdout gets. With `github`, the step's summary gets the report, too."""
    from prox24_export.report import github, github_benchmark, terminal  # noqa: PLC0415

    if format == "github":
        return github.render(report) + github.append_summary(report, os.environ)
    if format != "text":
        return github_benchmark.render(report, "lower" if format == "github-benchmark" else "higher")
    return terminal.render(report)


@app.command(usage="Usage: prox24-export bench [OPTIONS] DENSE SPARSE", help_epilogue="", default_parameter=PLAIN)
def bench(
    dense: Path,
    sparse: Path,
    /,
    *,
    batch: Annotated[tuple[int, ...], DATA] = (),
    inputs: Annotated[str | None, DATA, config.PATH] = None,
    out: Annotated[Path | None, OUTPUT, OUT, config.PATH] = None,
    settings: Annotated[BenchSettings, EACH_FIELD] = BenchSettings(),  # noqa: B008 - frozen
) -> int:
    """Time DENSE against SPARSE, in turns and on the same inputs, over batch sizes.

    Args:
        dense: An .onnx file, or a TensorRT engine (.engine, .plan).
        sparse: A file of the same kind. Engines are timed as they are, on the samples of --inputs.
        batch: The size of the first axis. The option may be repeated, and each size is timed. By default, sizes 1, 8
            and 32 are timed where that axis is dynamic.
        inputs: Samples to time on, in the forms of --calibration. By default, they are random.
        out: The folder to write. By default, it is SPARSE_STEM-bench in the current folder.
        settings: What is timed, and with what.
    """
    from prox24_export import bench as benchmark  # noqa: PLC0415
    from prox24_export.report import terminal  # noqa: PLC0415

    if any(size < 1 for size in batch):
        raise InputError(f"--batch must be 1 or more. Got {min(batch)}.")
    report = benchmark.bench(dense, sparse, out, batches=batch, inputs=inputs, settings=_completed(settings))
    _print(terminal.latency_table(make_printable(report)))
    return PASSED if report.passed else GATE_FAILED


@app.command(usage="Usage: prox24-export report [OPTIONS] RUN [OTHER]", help_epilogue="", default_parameter=PLAIN)
def report(
    run: Path,
    other: Path | None = None,
    /,
    *,
    format: Annotated[Literal["text", "markdown"], OUTPUT] = "text",  # noqa: A002 - the option's name
) -> int:
    """Make the files of a finished run again from its report.json; with two runs, compare them.

    Args:
        run: The output folder of a run.
        other: The output folder, or report.json, of a later run to compare with it. Nothing is written then.
        format: How the comparison is printed.
    """
    from prox24_export.report import compare, files  # noqa: PLC0415
    from prox24_export.results import reader  # noqa: PLC0415

    if other is None:
        _print("".join(f"{path}\n" for path in files.rerender_folder(run)))
        return PASSED
    both = make_printable(reader.load_report(run)), make_printable(reader.load_report(other))
    _print(compare.render_markdown(*both) if format == "markdown" else compare.render_text(*both))
    return PASSED


@app.command(usage="Usage: prox24-export inspect [OPTIONS] MODEL", help_epilogue="", default_parameter=PLAIN)
def inspect(
    model: Path,
    /,
    *,
    settings: Annotated[InspectSettings, EACH_FIELD] = InspectSettings(),  # noqa: B008 - frozen
    gpu: Annotated[GpuName | None, ENGINES] = None,
    batch: Annotated[int, ENGINES] = 1,
    sequence: Annotated[int, ENGINES] = 128,
    channels: Annotated[bool, OUTPUT] = False,
    format: Annotated[Literal["table", "json"], OUTPUT] = "table",  # noqa: A002 - the option's name
) -> int:
    """List every linear layer of MODEL: whether it would be pruned, and if not, why; and whether it is worth it.

    Args:
        model: A model in one of the forms that the main command takes, or a Hugging Face directory with nothing but
            its config.json.
        settings: Which layers count.
        gpu: Also bound what 2:4 could gain on this GPU, layer by layer, from shapes and the vendor's peak rates. An
            ONNX model is run once for that, on random inputs. By default, only layers are listed.
        batch: The size of a dynamic first axis in the call that the gain is bounded for.
        sequence: The size of every other dynamic axis in that call, such as the number of tokens.
        channels: Also list the input channels that may change places, and why others may not; the model is run once
            for that, on random inputs. By default, only layers are listed.
        format: What is printed: a table to read, or JSON.
    """
    from prox24_export import pipeline  # noqa: PLC0415
    from prox24_export.report import terminal, terminal_gain  # noqa: PLC0415

    if min(batch, sequence) < 1:
        raise InputError(f"--batch and --sequence must be 1 or more. Got {min(batch, sequence)}.")
    chosen, gain = _completed(settings), None
    if gpu is None:
        layers = pipeline.inspect_layers(model, chosen)
    else:
        layers, gain = pipeline.inspect_on_gpu(model, gpu, batch=batch, sequence=sequence, settings=chosen)
    spaces = pipeline.inspect_spaces(model, chosen) if channels else None
    if format == "json":
        _print(terminal.layers_json(layers, spaces, gain))
        return PASSED
    _print(terminal.layers_table(make_printable(layers)))
    _print(terminal.spaces_table(make_printable(spaces)) if spaces is not None else "")
    _print(terminal_gain.gain_table(make_printable(gain)) if gain is not None else terminal_gain.ASK_FOR_GPU)
    return PASSED


@app.command(usage="Usage: prox24-export completion SHELL", help_epilogue="", default_parameter=PLAIN)
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script that completes commands and options in SHELL, to be read by its start-up file.

    Args:
        shell: The shell: `source <(prox24-export completion bash)` in ~/.bashrc makes bash complete.
    """
    _print(app.generate_completion(shell=shell))
    return PASSED


@app.command(usage="Usage: prox24-export cache [--clear]", help_epilogue="", default_parameter=PLAIN)
def cache(*, clear: Annotated[bool, OUTPUT] = False) -> int:
    """Name the folder in which compiled kernels are kept between runs, and its size.

    Args:
        clear: Also remove what is in it; the next run compiles anew. By default, it stays.
    """
    from prox24_export.solver import compile_cache  # noqa: PLC0415 (numba loads here)

    folder, size = compile_cache.measure_cache()
    removed = compile_cache.clear_cache() if clear else False
    _print(f"{folder}: {size / 1e6:.1f} MB{', removed' if removed else ''}\n")
    return PASSED


def _completed(some: BenchSettings | InspectSettings) -> Settings:
    """Gives the settings of a run that agree with those of a sub-command, with defaults for the rest."""
    options: dict[str, Any] = vars(some)
    return Settings(**options)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    try:
        with interrupts.catch_signals(deliver=False):
            try:
                command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
                code: int | None = command(*bound.args, **bound.kwargs)
                interrupts.raise_if_interrupted()
            except Exception as error:
                interrupts.raise_if_interrupted()  # compiled code made another error of the interrupt
                if os.environ.get("PROX24_TRACEBACK") and not isinstance(error, (CycloptsError, Prox24Error)):
                    raise
                return _say(*_explain(error))
            return code or PASSED
    except KeyboardInterrupt:
        how = None if interrupts.finished_output() else interrupts.how_to_resume()
        return _say(f"interrupted. {_what_is_written()}" if how is None else f"interrupted; {how}.", INTERRUPTED)


def _explain(error: Exception) -> tuple[str, int]:
    """Says what an error means to the user, and gives its exit code."""
    if isinstance(error, UnusedCliTokensError):
        too_many = " ".join(error.unused_tokens or ())
        return f"one model is expected, and {too_many} comes after it. {_list_commands()}", UNUSABLE
    if isinstance(error, CycloptsError):
        return f"{error} See prox24-export --help.", UNUSABLE
    if isinstance(error, Prox24Error):
        how = interrupts.how_to_resume() if isinstance(error, (InputError, UnavailableError)) else None
        return f"{error} What is done is kept: {how}." if how else str(error), error.exit_code
    if isinstance(error, OSError):
        return f"{describe_fault(error)}. {_what_is_written()}", FAILED
    library = _find_library(error) if isinstance(error, ImportError) else None
    if library is not None:
        told = f"{library} cannot be imported: {describe_fault(error)}. {_what_is_written()}"
        return f"{told} Repair {library} and what it imports, or install them again.", UNAVAILABLE
    told = f"internal error: {describe_fault(error)}. {_what_is_written()}"
    return f"{told} Set PROX24_TRACEBACK=1 for the traceback.", FAILED


def _list_commands() -> str:
    names = ", ".join(name for name in app if not name.startswith("-"))
    return f"The commands before a model are {names}; see prox24-export --help."


def _find_library(error: ImportError) -> str | None:
    """Finds the library whose import failed: the first one behind our last call, or else the one that is missing.

    Returns:
        Its name; None where it is this program itself that is broken.
    """
    library = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        room = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if room == OURS:
            library = ""
        elif room not in sys.stdlib_module_names:
            library = library or room
    library = library or (error.name or OURS).partition(".")[0]
    return None if library == OURS else library


def _what_is_written() -> str:
    """Says what stands in the output folder, and how to go on where a journal stands beside it."""
    finished, how = interrupts.finished_output(), interrupts.how_to_resume()
    if finished is not None:
        return f"{finished} is complete."
    return "Nothing was written." + (f" {how[:1].upper()}{how[1:]}." if how else "")


def _print(text: str) -> None:
    """The result to stdout, in what it can encode. A reader that has gone away takes nothing from the verdict."""
    if sys.stdout is None:  # closed before the command began
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(escape(text, keep="\n").encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if not isinstance(error, BrokenPipeError):
            told = f"cannot print the result: {describe_fault(error)}. {_what_is_written()}"
            raise Prox24Error(told) from error


def _say(message: str, code: int) -> int:
    open_stderr().write(f"prox24-export: {escape(' '.join(message.split()))}\n")
    return code
