"""What a run found out: every writer renders this object and nothing else."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prox24_export.results.budget import BudgetReport
from prox24_export.results.engine import EngineReport, Estimate

SCHEMA_VERSION = 1
Better = Literal["higher", "lower"]
RANDOM_WARNING = (
    "No calibration data were given: inputs were random, so the masks are not based on data. "
    "Give --calibration before you rely on this model."
)


@dataclass(frozen=True)
class FileFacts:
    """A model file: where it is, how large it is, what it holds."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DataFacts:
    """Which samples were used for what. No sample is in two parts.

    Attributes:
        calibration: Source of the calibration samples; `random` where there was none.
        evaluation: Source of the report part.
        fit: Samples that masks and weights were fitted to.
        choice: Samples on which each layer's blend was chosen; fitted to afterwards where no refinement is kept, on
            which they decide.
        report: Samples used for the accuracy below and nothing else.
        is_random: Whether inputs were drawn at random: then the masks are not based on data.
    """

    calibration: str
    evaluation: str
    fit: int
    choice: int
    report: int
    is_random: bool


@dataclass(frozen=True)
class LayerReport:
    """One linear layer, sparse or dense, and why.

    Attributes:
        name: Node.
        op: Operator.
        weight: Stored weight, where there is one.
        k: Reduction dimension, where known.
        n: Output dimension, where known.
        parameters: Entries of the weight.
        share: `parameters` as a share of the model's float parameters.
        state: `sparse` or `dense`.
        reason: Why the layer is dense; empty where it is sparse.
        notes: What limits the gain of a sparse layer.
        relative_error: Loss of the layer's output against its target, relative to the output's energy.
        blend: 0 aimed at the dense weight, 1 at the dense network's output.
        damping: Share of the mean diagonal added to the Gram matrix.
        iterations: Of the mask solver.
        seconds: Spent on the layer, choices included.
        status: Why the solver stopped.
    """

    name: str
    op: str
    weight: str | None
    k: int | None
    n: int | None
    parameters: int
    share: float
    state: Literal["sparse", "dense"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    relative_error: float | None = None
    blend: float | None = None
    damping: float | None = None
    iterations: int | None = None
    seconds: float | None = None
    status: str = ""


@dataclass(frozen=True)
class OutputReport:
    """Dense against sparse at one float output of the model.

    Attributes:
        name: Output.
        snr_db: `10·log10(Σ dense² / Σ (dense − sparse)²)`; None where both are equal.
        cosine: Between both outputs over all samples.
        max_abs_error: Largest difference of one entry.
        argmax_agreement: Share of positions with the same arg-max; None where the last axis is not classes.
        snr_low: Lower end of the 95 % bootstrap interval of `snr_db` over samples; None where there is none.
        snr_high: Upper end.
        psnr_db: Of an image output against the dense one, mean over images; None for others, and where all are equal.
    """

    name: str
    snr_db: float | None
    cosine: float
    max_abs_error: float
    argmax_agreement: float | None
    snr_low: float | None = None
    snr_high: float | None = None
    psnr_db: float | None = None


@dataclass(frozen=True)
class EpochReport:
    """One point of the refinement's curve: mean objective of an epoch's batches, and of the held-back samples after it.

    Attributes:
        segment: Which segment, from 0; 0 where the whole model is refined.
        epoch: From 0, which is before the first step.
        train: None at epoch 0.
        held: None where no sample was held back.
    """

    segment: int
    epoch: int
    train: float | None
    held: float | None


@dataclass(frozen=True)
class RefinementReport:
    """All surviving weights together against the dense model's outputs: what came of it.

    Attributes:
        kept: Whether the result is used.
        reason: Why it is or is not, in one sentence.
        mode: `model`, or `segments`; empty where nothing was tried.
        samples: Held-back samples that decided.
        before: Their mean objective with the layer-wise weights; None where there were none.
        after: The same with the refined weights.
        curve: Every epoch.
        seconds: Wall time.
    """

    kept: bool
    reason: str
    mode: str = ""
    samples: int = 0
    before: float | None = None
    after: float | None = None
    curve: tuple[EpochReport, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Change:
    """A metric's change from the dense to the sparse model on the same samples, with its 95 % interval.

    Attributes:
        metric: Name, as in `AccuracyReport.dense`.
        value: Sparse minus dense, in the metric's unit.
        low: Lower end of a paired bootstrap interval over samples.
        high: Upper end.
        samples: How many were resampled.
    """

    metric: str
    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class AccuracyReport:
    """Measured on the report part, by the runtime of the front end.

    Attributes:
        samples: How many.
        dense: Metrics of the dense model by name, e.g. `top1` in per cent; empty without labels.
        sparse: The same of the sparse model.
        outputs: Every float output.
        changes: What is known of each metric's change; of metrics that are a sum over samples.
        better: Which direction of a metric is good, by name; a metric that is not in here has told none.
    """

    samples: int
    dense: dict[str, float]
    sparse: dict[str, float]
    outputs: tuple[OutputReport, ...]
    changes: tuple[Change, ...] = ()
    better: dict[str, Better] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """A limit the user set.

    Attributes:
        name: The option.
        value: Measured.
        limit: Allowed.
        unit: Of both.
        passed: Whether the run may go on.
        verdict: `inconclusive` where the limit lies within the interval of what was measured.
        low: Lower end of that interval; None where there is none.
        high: Upper end.
    """

    name: str
    value: float | None
    limit: float
    unit: str
    passed: bool
    verdict: Literal["", "passed", "failed", "inconclusive"] = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Executions:
    """Cost of calibration in node executions, one per node and batch.

    Attributes:
        calibration: Both streams, all stages.
        dense_pass: One pass of the dense model over the same batches.
        stages: How many stages there were.
    """

    calibration: int
    dense_pass: int
    stages: int


@dataclass(frozen=True)
class Report:
    """A whole run. `schema_version` changes when a reader of the JSON would have to."""

    tool: str
    versions: dict[str, str]
    machine: dict[str, Any]
    started: str
    settings: dict[str, Any]
    input: FileFacts
    output: FileFacts
    data: DataFacts | None
    layers: tuple[LayerReport, ...]
    accuracy: AccuracyReport | None
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    executions: Executions | None
    seconds: dict[str, float] = field(default_factory=dict)
    refinement: RefinementReport | None = None
    estimate: Estimate | None = None
    engine: EngineReport | None = None
    budget: BudgetReport | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def sparse_layers(self) -> Sequence[LayerReport]:
        """Layers that were pruned."""
        return [layer for layer in self.layers if layer.state == "sparse"]

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; infinities and NaN, which JSON cannot hold as numbers, become `"inf"`, `"-inf"`, `"nan"`."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {"schema_version": plain.pop("schema_version"), **plain}

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
