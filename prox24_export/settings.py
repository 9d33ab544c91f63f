"""The options of a run: the one place for their names, types, defaults, limits, groups and descriptions.

The command's flags and help, `prox24.toml`, the Python API and the documentation are made from the classes here. A
field is `Annotated` with the group that it is shown in and, where there is one, the bound of its value; the text below
it is its help. Nothing heavy is imported, since the command's help imports this module.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from prox24_export.option_values import (
    AIMS_AT_DENSE_OUTPUT,
    Effort,
    Engine,
    LayerMethod,
    Method,
    Permutation,
    PictureLayout,
    PicturePreset,
    Precision,
    Refine,
    RefineMode,
    RefineTarget,
)
from prox24_export.options.checks import (
    AT_LEAST_1,
    FUNCTION,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Bound,
    CheckedSettings,
    expect,
    refuse_unknown,
)
from prox24_export.options.config import PATH
from prox24_export.shapes import Shape, ShapeRange, parse_shapes

# The groups of the help, in the order in which it shows them.
DATA = Parameter(group=Group.create_ordered("Data"))
PRUNING = Parameter(group=Group.create_ordered("Pruning"))
REFINEMENT = Parameter(group=Group.create_ordered("Refinement"))
GATES = Parameter(group=Group.create_ordered("Gates", "The exit code is 1 where one of these limits is not kept."))
ENGINES = Parameter(group=Group.create_ordered("Engines"))
OUTPUT = Parameter(group=Group.create_ordered("Output"))


def _read_shapes(_: object, tokens: tuple[Token, ...]) -> dict[str, ShapeRange]:
    """Reads every `--shapes` of a command line, or the list of a file, which may be empty."""
    return parse_shapes(token.value for token in tokens if token.implicit_value != [])


def _read_numbers(_: object, tokens: tuple[Token, ...]) -> tuple[float, ...]:
    """Reads numbers with commas between them, or the list of a file.

    Raises:
        ValueError: One of them is no number.
    """
    return tuple(float(number) for token in tokens for number in token.value.split(","))


NUMBERS = Parameter(converter=_read_numbers, n_tokens=1, accepts_keys=False, metavar="NUMBERS")
THREE_NUMBERS = Bound(
    "one number, or three", lambda numbers: _are_numbers(numbers) and all(map(math.isfinite, numbers))
)
DEVIATIONS = Bound(
    "one number above 0, or three", lambda numbers: _are_numbers(numbers) and all(0 < one < math.inf for one in numbers)
)
_SIZE = re.compile(r"[1-9][0-9]{0,4}(?:[xX][1-9][0-9]{0,4})?")
RAY_ADDRESS = Bound(
    "local, or an address such as 10.0.0.5:6379", lambda ray: bool(re.fullmatch(r"local|[^\s/]+:[0-9]{1,5}", str(ray)))
)
DEVICE = Bound(
    "auto, cpu, cuda, cuda:N or cuda:all",
    lambda device: bool(re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3}|:all)?", str(device))),
)
PICTURE_SIZE = Bound("a size such as 256 or 224x224", lambda size: bool(_SIZE.fullmatch(str(size))))


def _are_numbers(value: Any) -> bool:
    is_list = isinstance(value, tuple) and len(value) in {1, 3}
    return is_list and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value)


SHAPES = Parameter(converter=_read_shapes, n_tokens=-1, accepts_keys=False, metavar="SHAPE...")


@refuse_unknown
@dataclass(frozen=True, kw_only=True)
class InspectSettings(CheckedSettings):
    """The options of a run that `inspect` has, too: which layers count."""

    include: Annotated[tuple[str, ...], PRUNING] = ()
    """Prune only the layers whose node or weight name matches this glob. The option may be repeated. By default, all
    eligible layers are pruned."""

    exclude: Annotated[tuple[str, ...], PRUNING] = ()
    """Leave the layers whose node or weight name matches this glob dense. The option may be repeated. By default, none
    is left dense."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: The globs are one string.
        """
        super().__post_init__()
        for option, globs in (("--include", self.include), ("--exclude", self.exclude)):
            expect(not isinstance(globs, str), option, "a tuple of globs", repr(globs))


@refuse_unknown
@dataclass(frozen=True, kw_only=True)
class BenchSettings(CheckedSettings):
    """The options of a run that `bench` has, too: what is timed, and with what."""

    seed: Annotated[int, DATA, NOT_NEGATIVE] = 0
    """The seed of every random choice: of random inputs, of which samples are used, and of how they are split."""

    shapes: Annotated[Mapping[str, ShapeRange | Shape], DATA, SHAPES] = field(default_factory=dict)
    """The shape of an input, such as image:1x3x224x224, or its smallest, likeliest and largest shapes with commas
    between them. Random inputs, engines and what is timed follow it. The option may be repeated. By default, random
    inputs have 1 on a dynamic first axis and 32 on any other dynamic axis, a run times 1 and up to 32 samples at once,
    and `bench` times the sizes of --batch."""

    min_speedup: Annotated[float | None, GATES, NOT_NEGATIVE] = None
    """The least speed-up; the lower end of its interval counts. By default, there is no limit."""

    engine: Annotated[Engine, ENGINES] = "auto"
    """What the latency is measured with. With `auto` it is TensorRT where that can be used, else torch.sparse on a CUDA
    GPU. Where there is neither, a run measures no latency, and `bench` takes ONNX Runtime on the CPU."""

    precision: Annotated[Precision | None, ENGINES] = None
    """The precision of the engines. ONNX files in this precision are written to OUT/engines. With `int8` they hold
    QuantizeLinear and DequantizeLinear with scales from the calibration samples. By default, it is fp16, and the files
    are written only where TensorRT builds engines."""

    workspace_mb: Annotated[int | None, ENGINES, AT_LEAST_1] = None
    """The most scratch memory that a TensorRT tactic may use, in MB (2²⁰ bytes). By default, it may use all there
    is."""

    timing_cache: Annotated[str | None, ENGINES, PATH] = None
    """A file with tactic timings of earlier TensorRT builds to start from; it is read and never written. By default,
    all tactics are timed anew."""

    force: Annotated[bool, OUTPUT] = False
    """Replace a finished run in the output folder, which must hold nothing else. By default, such a folder is
    refused."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: A value is outside its bound, or has no meaning together with another.
        """
        super().__post_init__()
        builds = self.engine in {"auto", "tensorrt"}
        for option, given in (("--timing-cache", self.timing_cache), ("--workspace-mb", self.workspace_mb)):
            expect(given is None or builds, option, f"left out with --engine {self.engine}", given)
        for name, shapes in self.ranges.items():
            fits = all(size >= 1 for shape in (shapes.min, shapes.opt, shapes.max) for size in shape)
            expect(fits, "--shapes", "sizes of at least 1", f"{name}: {shapes}")

    @property
    def ranges(self) -> dict[str, ShapeRange]:
        """`shapes`, each as a range."""
        return {
            name: shape if isinstance(shape, ShapeRange) else ShapeRange(shape, shape, shape)
            for name, shape in self.shapes.items()
        }

    @property
    def random_shapes(self) -> dict[str, Shape]:
        """The shapes of random inputs: the likeliest of each range."""
        return {name: shapes.opt for name, shapes in self.ranges.items()}


@refuse_unknown
@dataclass(frozen=True, kw_only=True)
class Settings(InspectSettings, BenchSettings):
    """What a run does: every option of the command that is not a file to read or a folder to write."""

    samples: Annotated[int | None, DATA, AT_LEAST_1] = None
    """The most calibration samples to use; they are drawn with --seed, and are the first ones where a function yields
    them, which then need not end. By default, all are used, and 32 are made up where inputs are random."""

    sequence: Annotated[int, DATA, Bound("at least 2 tokens", lambda tokens: tokens >= 2)] = 256  # noqa: PLR2004 - one to predict
    """The number of tokens in each row that a text file is cut into."""

    stride: Annotated[int | None, DATA] = None
    """The number of tokens by which windows over an evaluation text advance. By default, windows do not overlap."""

    tokenizer: Annotated[str | None, DATA, PATH] = None
    """A tokenizer.json, or a folder with the tokenizer, that turns texts into token ids. By default, it is that of the
    Hugging Face directory, or tokenizer.json beside an .onnx file."""

    preprocess: Annotated[PicturePreset | None, DATA] = None
    """How pictures become inputs, as a preset: `imagenet`, `clip` and `siglip` resize, cut and normalise as for these
    models, in the size that the model fixes; with `0-1` values are divided by 255. By default, it is what
    preprocessor_config.json beside the model says."""

    resize: Annotated[str | None, DATA, PICTURE_SIZE] = None
    """The size to which pictures are resized: 256 for the shorter edge, or 224x224 for height and width. By default,
    it is that of the preset, or pictures stay as they are."""

    crop: Annotated[str | None, DATA, PICTURE_SIZE] = None
    """The size that is cut out of the middle of pictures, such as 224 or 224x224. By default, it is that of the preset,
    or nothing is cut."""

    mean: Annotated[tuple[float, ...] | None, DATA, NUMBERS, THREE_NUMBERS] = None
    """What is subtracted from each channel of pictures, on the scale from 0 to 1: one number, or three with commas
    between them. Where it and the deviation are 0.5, inputs are from −1 to 1. By default, it is that of the preset."""

    std: Annotated[tuple[float, ...] | None, DATA, NUMBERS, DEVIATIONS] = None
    """What each channel of pictures is divided by then, on the same scale. By default, it is that of the preset."""

    layout: Annotated[PictureLayout | None, DATA] = None
    """The order of the axes of the model's input for pictures. By default, it is read from the input's shape."""

    classes: Annotated[str | None, DATA, PATH] = None
    """A file of class names, one a line in the order of the indices, for pictures in one sub-folder a class. By
    default, sub-folders are named by class indices, or as id2label in config.json beside the model names them."""

    metric: Annotated[str | None, DATA, FUNCTION] = None
    """Your own metric, as module:function; the documentation says what it gets. By default, the metric is top-1 where
    there are labels, and perplexity for a causal language model."""

    memory: Annotated[float | None, DATA, POSITIVE] = None
    """The most memory that the run may take, in GB (2³⁰ bytes); activations that do not fit go to disk, beside the
    output folder. By default, it is four fifths of what is free."""

    device: Annotated[str, DATA, DEVICE] = "auto"
    """Where calibration, solver, refinement and accuracy compute: `cpu`, `cuda` for the first GPU, `cuda:1` for the
    second, or `cuda:all`, with which all GPUs of the first one's kind solve layers side by side. With `auto` it is the
    first GPU that torch sees, else the CPU. Sums are rounded differently on another kind of device, so that single
    entries of the masks may differ."""
    ray: Annotated[str | None, PRUNING, RAY_ADDRESS] = None
    """Who calibrates and solves, by Ray: `local` for processes of this machine, or the address of a cluster's head,
    such as 10.0.0.5:6379. Masks do not depend on it. By default, this process does all of it."""

    method: Annotated[Method, PRUNING] = "prox"
    """How the masks are found: `prox` is proximal ADMM, layer by layer; `prox-gradient` is the method of the paper;
    with `prox-model` the masks of `prox` move again while all layers are tuned together, by the paper's operator and
    the gradient of the model's outputs; the last three are baselines to compare with."""

    effort: Annotated[Effort, PRUNING] = "default"
    """How hard the mask solver works, and with `thorough` how long the refinement goes on: more effort takes more time
    and leaves less error. Baselines know only one."""

    damping: Annotated[float | None, PRUNING, SHARE] = None
    """The share of its mean diagonal that is added to the diagonal of each Gram matrix. By default, it follows from the
    number of tokens per input dimension."""

    blend: Annotated[float | None, PRUNING, SHARE] = None
    """What the solver aims at: 0 is the dense weights, 1 is the outputs of the dense network, and a number between them
    is a blend of both. By default, it is chosen on held-back samples."""

    permute: Annotated[Permutation, PRUNING] = "auto"
    """Whether input channels change places before anything is pruned, so that 2:4 costs less; the dense model computes
    the same in any order. With `auto` they do where that promises at least 2 % less error, if there are eight
    calibration samples, --method is no baseline and the model takes at most 4 GB; with `all` wherever it promises
    anything."""

    permute_minutes: Annotated[
        float | None, PRUNING, Bound("more than 0 minutes", lambda minutes: 0 < minutes < math.inf)
    ] = None
    """The most minutes to search for an order of channels. By default, there are 2 with --permute auto, and there is no
    limit with `all`."""

    budget: Annotated[bool, PRUNING] = False
    """Leave the fewest layers dense that keep --max-accuracy-drop or --max-metric-change. By default, no layer is left
    dense for the sake of a limit."""

    refine: Annotated[Refine, REFINEMENT] = "auto"
    """What moves when all layers are tuned together against the dense outputs. With `auto` the surviving weights move
    if there are calibration samples, at least eight of them are held back, --method is no baseline, the tuning takes at
    most 4 GB and the model at most 2 GB; else nothing moves."""

    refine_mode: Annotated[RefineMode, REFINEMENT] = "auto"
    """Whether all layers are tuned at once (`model`), or a segment (a block) at a time in the memory of one
    (`segments`). With `auto` all are tuned at once where half of the free memory suffices."""

    refine_target: Annotated[RefineTarget, REFINEMENT] = "dense"
    """What the outputs should be: those of the dense network (`dense`), or what the dense network says of an image and
    its mirrored and shifted views together (`views`), which may be nearer to the truth and is further from the dense
    outputs. Models that do not take such views for the same image are tuned as with `dense`."""

    refine_minutes: Annotated[
        float | None, REFINEMENT, Bound("more than 0 minutes", lambda minutes: 0 < minutes < math.inf)
    ] = None
    """The most minutes that the refinement may take, to within one step. By default, there are 10 with --refine auto,
    or 40 with --effort thorough, and there is no limit with its other values."""

    refine_loss: Annotated[str | None, REFINEMENT, FUNCTION] = None
    """Your own measure of pruned against dense outputs, as module:function; the documentation says what it gets. By
    default, a measure is chosen for each output by its kind."""

    max_accuracy_drop: Annotated[
        float | None, GATES, Bound("0 points or more", lambda points: 0 <= points < math.inf)
    ] = None
    """The most percentage points of top-1 accuracy that may be lost; this needs labels. By default, there is no
    limit."""

    max_metric_change: Annotated[float | None, GATES, NOT_NEGATIVE] = None
    """The most that a metric other than top-1 may change for the worse. By default, there is no limit."""

    min_snr: Annotated[float | None, GATES, Bound("a number of dB", math.isfinite)] = None
    """The least signal-to-noise ratio of every float output of a fixed size, in dB. By default, there is no limit."""

    min_sparse_layers: Annotated[int | None, GATES, NOT_NEGATIVE] = None
    """The fewest layers that must be sparse. By default, there is no limit."""

    strict: Annotated[bool, GATES] = False
    """Hold the bad end of a figure's interval against its limit. By default, the figure itself is held against it."""

    baseline: Annotated[str | None, GATES, PATH] = None
    """The report.json of an earlier run, against which nothing may regress. By default, there is no such comparison."""

    no_resume: Annotated[bool, OUTPUT] = False
    """Start anew, as with --force, where an interrupted run has left OUT.journal. By default, the run goes on with what
    that run has done, if model, data, versions and all options that change the result are the same."""

    onnx: Annotated[bool, OUTPUT] = False
    """Also write model.onnx of a Hugging Face directory; other torch models always give one. By default, only the
    directory is written."""

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InputError: A value is outside its bound, or has no meaning together with another.
        """
        super().__post_init__()
        aims = self.method in AIMS_AT_DENSE_OUTPUT
        for option, value in (("--damping", self.damping), ("--blend", self.blend)):
            expect(value is None or aims, option, f"left out with --method {self.method}, which has none", value)
        together = self.method != "prox-model" or self.refine != "no"
        expect(together, "--refine", "left out with --method prox-model, whose masks move in the refinement", "no")
        only_one = f"left out with --method {self.method}, which knows only one"
        expect(self.effort == "default" or aims, "--effort", only_one, self.effort)
        expect(self.stride is None or 1 <= self.stride <= self.sequence, "--stride", "1 to --sequence", self.stride)
        self._expect_refined()
        given = self.permute_minutes
        expect(given is None or self.permute != "no", "--permute-minutes", "left out with --permute no", given)
        kept = not self.budget or any(limit is not None for limit in (self.max_accuracy_drop, self.max_metric_change))
        expect(kept, "--budget", "given a limit to keep: --max-accuracy-drop or --max-metric-change", "none")

    def _expect_refined(self) -> None:
        """Expects no option of the refinement where there is none, and none that tuning in segments cannot heed.

        Raises:
            InputError: There is one.
        """
        for option, value, usual in (
            ("--refine-mode", self.refine_mode, "auto"),
            ("--refine-target", self.refine_target, "dense"),
            ("--refine-minutes", self.refine_minutes, None),
            ("--refine-loss", self.refine_loss, None),
        ):
            expect(value == usual or self.refine != "no", option, "left out with --refine no", value)
        at_once = self.refine_mode != "segments"
        wanted = "left out with --refine-mode segments, which aims at the dense network's values alone"
        expect(at_once or self.refine_target == "dense", "--refine-target", wanted, self.refine_target)
        wanted = "left out with --method prox-model, whose masks move only while all layers are tuned at once"
        expect(at_once or self.method != "prox-model", "--refine-mode", wanted, self.refine_mode)

    @property
    def layer_method(self) -> LayerMethod:
        """How the masks of a single layer are found."""
        return "prox" if self.method == "prox-model" else self.method

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self) | {"shapes": {name: str(shapes) for name, shapes in self.ranges.items()}}
