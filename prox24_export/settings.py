"""Every option of a run with its unit and default, checked once. Imports nothing heavy: the command's help reads it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from prox24_export.errors import InputError

Method = Literal["prox", "prox-gradient", "sparsegpt", "wanda", "magnitude"]
Effort = Literal["fast", "default", "thorough"]
Refine = Literal["no", "weights", "weights+bias", "all"]
RefineMode = Literal["auto", "model", "segments"]
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
        shapes: Sizes of random inputs by input name, where dynamic axes should not be 1 (first) and 32 (others).
        damping: Share of the mean diagonal added to each Gram matrix; None: from tokens per input dimension.
        blend: 0 aims at the dense weight, 1 at the dense network's output; None: chosen on held-back data.
        sequence: Tokens in a row of a text file.
        stride: Tokens by which windows over an evaluation text advance; None: they do not overlap.
        metric: `module:function` of the user's own metric; None: top-1 where there are labels, perplexity of a
            causal language model.
        max_accuracy_drop: Gate: most percentage points of top-1 that may be lost. Needs labels.
        min_snr: Gate: least signal-to-noise ratio of any float output, in dB.
        refine: Tune the surviving weights of all layers together afterwards, and what moves beside them.
        refine_mode: Together, or a segment (a block) at a time; `auto`: together where half of free memory suffices.
        refine_minutes: Most minutes spent on it; None: about 360 steps.
        refine_loss: `module:function` that measures pruned against dense outputs; None: detected for each output.
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
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    damping: float | None = None
    blend: float | None = None
    sequence: int = 256
    stride: int | None = None
    metric: str | None = None
    max_accuracy_drop: float | None = None
    min_snr: float | None = None
    refine: Refine = "no"
    refine_mode: RefineMode = "auto"
    refine_minutes: float | None = None
    refine_loss: str | None = None
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
        loss = self.refine_loss
        _expect(loss is None or ":" in loss, "--refine-loss", "module:function", loss)
        drop = self.max_accuracy_drop
        _expect(drop is None or 0 <= drop < math.inf, "--max-accuracy-drop", "0 points or more", drop)
        _expect(self.min_snr is None or math.isfinite(self.min_snr), "--min-snr", "a number of dB", self.min_snr)

        for name, shape in self.shapes.items():
            _expect(all(size >= 1 for size in shape), "--shapes", "sizes of at least 1", f"{name}: {shape}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self) | {"shapes": {name: list(shape) for name, shape in self.shapes.items()}}


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`name:1x3x224x224` → (`name`, (1, 3, 224, 224)). The name may itself hold colons.

    Raises:
        InputError: The text is not of that form.
    """
    name, _, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.lower().split("x"))
    except ValueError:
        shape = ()
    if not name or not shape or any(size < 1 for size in shape):
        raise InputError(f"--shapes must look like name:1x3x224x224. Got {text!r}.")
    return name, shape


def _expect(holds: bool, option: str, wanted: str, got: object) -> None:
    if not holds:
        raise InputError(f"{option} must be {wanted}. Got {got}.")
