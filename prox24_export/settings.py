"""Every option of a run with its unit and default, checked once. Imports nothing heavy: the command's help reads it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from prox24_export.errors import InputError
from prox24_export.shapes import Shape, ShapeRange

Method = Literal["prox", "prox-gradient", "sparsegpt", "wanda", "magnitude"]
Effort = Literal["fast", "default", "thorough"]
Refine = Literal["auto", "no", "weights", "weights+bias", "all"]
RefineMode = Literal["auto", "model", "segments"]
Engine = Literal["auto", "tensorrt", "torch", "onnxruntime", "none"]
Precision = Literal["fp16", "bf16", "fp32"]
AIMS_AT_DENSE_OUTPUT: frozenset[Method] = frozenset({"prox", "prox-gradient"})


@dataclass(frozen=True)
class Settings:
    """What a run does.

    Attributes:
        method: Mask solver: `prox` (proximal ADMM), `prox-gradient` (the paper's), or a baseline to compare with.
        effort: Of the mask solver: less error for more time. Baselines know only one.
        include: Globs on node or weight names; only layers that match one are pruned. Empty: all.
        exclude: Globs on node or weight names; layers that match one stay dense.
        samples: Calibration samples used, drawn with `seed`; None: all (32 where inputs are random).
        seed: Of every random choice: random inputs, which samples are used, how they are split.
        shapes: Shape, or range of shapes, by input name: of random inputs (whose dynamic axes are otherwise 1, the
            first, and 32), of engines and of what is timed.
        damping: Share of the mean diagonal added to each Gram matrix; None: from tokens per input dimension.
        blend: 0 aims at the dense weight, 1 at the dense network's output; None: chosen on held-back data.
        sequence: Tokens in a row of a text file.
        stride: Tokens by which windows over an evaluation text advance; None: they do not overlap.
        metric: `module:function` of the user's own metric; None: top-1 where there are labels, perplexity of a
            causal language model.
        max_accuracy_drop: Gate: most percentage points of top-1 that may be lost. Needs labels.
        min_snr: Gate: least signal-to-noise ratio of any float output, in dB.
        refine: What moves when all layers are tuned together afterwards; `auto`: surviving weights, where there are
            data, eight samples held back, the method is no baseline and memory for it is small; `no`: nothing.
        refine_mode: Together, or a segment (a block) at a time; `auto`: together where half of free memory suffices.
        refine_minutes: Most minutes spent on it; None: 10 with `auto`, else no limit.
        refine_loss: `module:function` that measures pruned against dense outputs; None: detected for each output.
        engine: What the latency is measured with; `auto`: TensorRT, else torch.sparse on a CUDA GPU, else nothing.
        precision: Of the engines, and of ONNX files written for them; None: fp16 where an engine is built.
        workspace_mb: Most MB (2²⁰ bytes) of scratch memory a TensorRT tactic may use; None: all there is.
        timing_cache: File with tactic timings of earlier TensorRT builds; read, never written.
        min_speedup: Gate: least speed-up; the lower end of its interval counts.
        min_sparse_layers: Gate: fewest layers that must be sparse.
        max_metric_change: Gate: most that any metric but top-1 may change in its bad direction.
        strict: Gates look at the bad end of a figure's interval, not at the figure.
        baseline: `report.json` of an earlier run, against which nothing may regress.
        budget: Leave the fewest layers dense that keep `max_accuracy_drop` or `max_metric_change`.
        offload: Keep activations between stages on disk.
        onnx: Also write `model.onnx`, where the model is not an ONNX file.
        force: Replace a finished run in the output folder.
    """

    method: Method = "prox"
    effort: Effort = "default"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 0
    shapes: Mapping[str, ShapeRange | Shape] = field(default_factory=dict)
    damping: float | None = None
    blend: float | None = None
    sequence: int = 256
    stride: int | None = None
    metric: str | None = None
    max_accuracy_drop: float | None = None
    min_snr: float | None = None
    refine: Refine = "auto"
    refine_mode: RefineMode = "auto"
    refine_minutes: float | None = None
    refine_loss: str | None = None
    engine: Engine = "auto"
    precision: Precision | None = None
    workspace_mb: int | None = None
    timing_cache: str | None = None
    min_speedup: float | None = None
    min_sparse_layers: int | None = None
    max_metric_change: float | None = None
    strict: bool = False
    baseline: str | None = None
    budget: bool = False
    offload: bool = False
    onnx: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InputError: A value is outside its range.
        """
        _expect(self.method in get_args(Method), "--method", f"one of {', '.join(get_args(Method))}", self.method)
        _expect(self.effort in get_args(Effort), "--effort", f"one of {', '.join(get_args(Effort))}", self.effort)
        for option, globs in (("--include", self.include), ("--exclude", self.exclude)):
            _expect(not isinstance(globs, str), option, "a tuple of globs", repr(globs))
        _expect(self.samples is None or self.samples >= 1, "--samples", "at least 1", self.samples)
        _expect(self.seed >= 0, "--seed", "0 or more", self.seed)
        _expect(self.damping is None or 0 <= self.damping <= 1, "--damping", "between 0 and 1", self.damping)
        _expect(self.blend is None or 0 <= self.blend <= 1, "--blend", "between 0 and 1", self.blend)
        for option, value in (("--damping", self.damping), ("--blend", self.blend)):
            aims = self.method in AIMS_AT_DENSE_OUTPUT
            _expect(value is None or aims, option, f"left out with --method {self.method}, which has none", value)
        plain = self.effort == "default" or self.method in AIMS_AT_DENSE_OUTPUT
        _expect(plain, "--effort", f"left out with --method {self.method}, which knows only one", self.effort)
        _expect(self.sequence >= 2, "--sequence", "at least 2 tokens", self.sequence)  # noqa: PLR2004 - one to predict
        _expect(self.stride is None or 1 <= self.stride <= self.sequence, "--stride", "1 to --sequence", self.stride)
        _expect(self.metric is None or ":" in self.metric, "--metric", "module:function", self.metric)
        _expect(self.refine in get_args(Refine), "--refine", f"one of {', '.join(get_args(Refine))}", self.refine)
        modes = get_args(RefineMode)
        _expect(self.refine_mode in modes, "--refine-mode", f"one of {', '.join(modes)}", self.refine_mode)
        minutes = self.refine_minutes
        _expect(minutes is None or 0 < minutes < math.inf, "--refine-minutes", "more than 0 minutes", minutes)
        _expect(minutes is None or self.refine != "no", "--refine-minutes", "left out with --refine no", minutes)
        loss = self.refine_loss
        _expect(loss is None or self.refine != "no", "--refine-loss", "left out with --refine no", loss)
        _expect(loss is None or ":" in loss, "--refine-loss", "module:function", loss)
        drop = self.max_accuracy_drop
        _expect(drop is None or 0 <= drop < math.inf, "--max-accuracy-drop", "0 points or more", drop)
        _expect(self.min_snr is None or math.isfinite(self.min_snr), "--min-snr", "a number of dB", self.min_snr)
        _expect(self.engine in get_args(Engine), "--engine", f"one of {', '.join(get_args(Engine))}", self.engine)
        known = get_args(Precision)
        _expect(self.precision in {None, *known}, "--precision", f"one of {', '.join(known)}", self.precision)
        _expect(self.workspace_mb is None or self.workspace_mb >= 1, "--workspace-mb", "1 or more", self.workspace_mb)
        for option, limit in (("--min-speedup", self.min_speedup), ("--max-metric-change", self.max_metric_change)):
            _expect(limit is None or 0 <= limit < math.inf, option, "0 or more", limit)
        least = self.min_sparse_layers
        _expect(least is None or least >= 0, "--min-sparse-layers", "0 or more", least)
        builds = self.engine in {"auto", "tensorrt"}
        for option, given in (("--timing-cache", self.timing_cache), ("--workspace-mb", self.workspace_mb)):
            _expect(given is None or builds, option, f"left out with --engine {self.engine}", given)
        limits = (self.max_accuracy_drop, self.max_metric_change)
        kept = not self.budget or any(limit is not None for limit in limits)
        _expect(kept, "--budget", "given a limit to keep: --max-accuracy-drop or --max-metric-change", "none")
        for name, shapes in self.ranges.items():
            fits = all(size >= 1 for shape in (shapes.min, shapes.opt, shapes.max) for size in shape)
            _expect(fits, "--shapes", "sizes of at least 1", f"{name}: {shapes}")

    @property
    def ranges(self) -> dict[str, ShapeRange]:
        """`shapes`, each as a range."""
        return {
            name: shape if isinstance(shape, ShapeRange) else ShapeRange(shape, shape, shape)
            for name, shape in self.shapes.items()
        }

    @property
    def random_shapes(self) -> dict[str, Shape]:
        """Shapes of random inputs: the likeliest."""
        return {name: shapes.opt for name, shapes in self.ranges.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self) | {"shapes": {name: str(shapes) for name, shapes in self.ranges.items()}}


def _expect(holds: bool, option: str, wanted: str, got: object) -> None:
    if not holds:
        raise InputError(f"{option} must be {wanted}. Got {got}.")
