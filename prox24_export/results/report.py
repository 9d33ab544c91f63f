"""The report of a run; every writer renders this object and nothing else."""

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from prox24_export.errors import UnavailableError, describe_missing
from prox24_export.results.budget import BudgetReport
from prox24_export.results.change import Change
from prox24_export.results.device import DeviceReport
from prox24_export.results.engine import EngineReport, Estimate
from prox24_export.results.interface import ModelInterface
from prox24_export.results.permutation import PermutationReport

SCHEMA_VERSION = 1
Better = Literal["higher", "lower"]
_SURROGATE = re.compile("[\ud800-\udfff]")
RANDOM_WARNING = (
    "No calibration data were given: inputs were random, so the masks are not based on data. "
    "Give --calibration before you rely on this model."
)


@dataclass(frozen=True)
class FileFacts:
    """A model file or directory: where it is, how large it is, and a digest of what it holds.

    Attributes:
        path: Path as the user gave it, or relative to the current folder.
        bytes: Size in bytes; that of all its files for a directory.
        sha256: SHA-256 of the content; that of all its files, by name, for a directory.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DataFacts:
    """Which samples were used for what; no sample is in two parts.

    Attributes:
        calibration: Source of the calibration samples; `random` where inputs were drawn at random.
        evaluation: Source of the samples that the accuracy was measured on.
        fit: Number of samples that masks and weights were fitted to.
        choice: Number of samples that chose each layer's blend; where a refinement is kept, they decided on it too and
            then took part in its last steps, and else masks and weights were fitted to them afterwards.
        report: Number of samples that were used for the accuracy and for nothing else.
        is_random: Whether inputs were drawn at random, so that the masks are not based on data.
    """

    calibration: str
    evaluation: str
    fit: int
    choice: int
    report: int
    is_random: bool


@dataclass(frozen=True)
class LayerReport:
    """One linear layer: whether it is sparse or dense, and why.

    Attributes:
        name: Node name.
        op: Operator type.
        weight: Name of the stored weight; None where there is none.
        k: Reduction dimension; None where it is not known.
        n: Output dimension; None where it is not known.
        parameters: Number of entries of the weight.
        share: Share of `parameters` in the float parameters of the model.
        state: `sparse` or `dense`.
        reason: Why the layer is dense; empty where it is sparse.
        notes: What limits the gain of a sparse layer.
        relative_error: Loss of the layer's output against its target, relative to the output's energy; None where it
            was not solved, or where a baseline reads only the norms of a wide input.
        blend: What the solver aimed at: 0 is the dense weight, 1 the dense network's output.
        damping: Share of its mean diagonal that was added to the diagonal of the Gram matrix.
        iterations: Number of iterations of the mask solver.
        seconds: Wall time spent on the layer, choices included.
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
    """The dense against the sparse model at one output.

    An output of floats has `snr_db`, `cosine` and `max_abs_error`, any other output has `equal`, and an output that
    cannot be compared has `not_compared`.

    Attributes:
        name: Name of the output.
        snr_db: Signal-to-noise ratio `10·log10(Σ dense² / Σ (dense − sparse)²)` in dB; None where both are equal, and
            where the output does not hold floats or is not compared.
        cosine: Cosine between the two outputs over all samples; None for an output without a signal-to-noise ratio.
        max_abs_error: Largest absolute difference of one entry; None for an output without a signal-to-noise ratio.
        argmax_agreement: Share of positions with the same arg-max; None where the last axis is not known to hold
            classes.
        snr_low: Lower end of the 95 % bootstrap interval of `snr_db` over samples; None where there is none.
        snr_high: Upper end of the interval.
        psnr_db: Peak signal-to-noise ratio of an image output, mean over images, in dB; None for other outputs and
            where all images are equal.
        equal: Share of entries that are the same in both models, of an output that does not hold floats; None for
            floats.
        not_compared: Why the output is not compared; empty where it is.
        not_finite: Number of entries of the sparse model's output that are NaN, or infinite where the dense model's
            output holds no infinity at all.
    """

    name: str
    snr_db: float | None
    cosine: float | None
    max_abs_error: float | None
    argmax_agreement: float | None
    snr_low: float | None = None
    snr_high: float | None = None
    psnr_db: float | None = None
    equal: float | None = None
    not_compared: str = ""
    not_finite: int = 0

    @property
    def has_snr(self) -> bool:
        """Whether the output has a signal-to-noise ratio, which is infinite where `snr_db` is None."""
        return self.equal is None and not self.not_compared


@dataclass(frozen=True)
class EpochReport:
    """One point of the refinement's curve.

    Attributes:
        segment: Index of the segment, from 0; 0 where the whole model is refined.
        epoch: Index of the epoch; 0 is before the first step.
        train: Mean objective of the epoch's batches; None at epoch 0.
        held: Mean objective of the held-back samples after the epoch; None where no sample was held back.
    """

    segment: int
    epoch: int
    train: float | None
    held: float | None


@dataclass(frozen=True)
class RefinementReport:
    """The refinement of all surviving weights together against the dense model's outputs.

    Attributes:
        kept: Whether the refined weights are used.
        reason: Why they are used or not, in one sentence.
        mode: `model` or `segments`; empty where nothing was tried.
        samples: Number of held-back samples that decided.
        before: Mean objective of those samples with the layer-wise weights; None where there were none.
        after: Mean objective of those samples with the refined weights; None where there were none.
        curve: The start, and every epoch that was not taken back.
        seconds: Wall time.
        target: `dense` where the dense model's outputs were the target, `views` where it was what the dense model says
            of several views of an image together; empty where nothing was tried.
        taken_back: Number of epochs that made the objective worse, and were taken back.
        masks_moved: Share of the surviving weights that do not survive layer by layer; None where masks are fixed.
    """

    kept: bool
    reason: str
    mode: str = ""
    samples: int = 0
    before: float | None = None
    after: float | None = None
    curve: tuple[EpochReport, ...] = ()
    seconds: float = 0.0
    target: str = ""
    taken_back: int = 0
    masks_moved: float | None = None


@dataclass(frozen=True)
class AccuracyReport:
    """The accuracy of both models on the report part, computed by the runtime of the front end.

    Attributes:
        samples: Number of samples.
        dense: Metrics of the dense model by name, such as `top1` in per cent; empty without labels.
        sparse: Metrics of the sparse model, by the same names.
        outputs: Every output.
        changes: Changes with their intervals, of the metrics that are a sum over samples.
        better: Which direction of a metric is better, by its name; a metric that is missing here has told none.
    """

    samples: int
    dense: dict[str, float]
    sparse: dict[str, float]
    outputs: tuple[OutputReport, ...]
    changes: tuple[Change, ...] = ()
    better: dict[str, Better] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """A limit that the user set, and what was measured against it.

    Attributes:
        name: Name of the option; `finite-outputs` is judged without one, and listed where it fails.
        value: What was measured; None where nothing was.
        limit: What is allowed.
        unit: Unit of `value` and `limit`.
        passed: Whether the gate lets the run pass.
        verdict: `passed`, `failed`, or `inconclusive` where the limit lies within the interval of what was measured.
        low: Lower end of that interval; None where there is none.
        high: Upper end of that interval; None where there is none.
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
class Fault:
    """A stage that failed after the layers were solved, which cost its figures and not the model.

    Attributes:
        stage: Name of the stage.
        message: What went wrong, in one sentence without its full stop.
    """

    stage: str
    message: str


@dataclass(frozen=True)
class Executions:
    """What calibration cost, in node executions: one for each node and batch.

    Attributes:
        calibration: Executions of the calibration, both streams and all stages together.
        dense_pass: Executions of one pass of the dense model over the same batches.
        stages: Number of stages.
    """

    calibration: int
    dense_pass: int
    stages: int


@dataclass(frozen=True, repr=False)
class Report:
    """A whole run. `schema_version` changes when a reader of the JSON would have to.

    Attributes:
        tool: Name of the program that wrote the report.
        versions: Version of every package that took part, by name.
        machine: The machine that the figures were measured on.
        started: When the run started: UTC in ISO 8601.
        settings: Every option of the run, by name.
        input: The dense model.
        output: The sparse model.
        data: Which samples were used for what; None where none were needed.
        layers: Every linear layer, in network order.
        accuracy: The dense against the sparse model; None where nothing was measured.
        gates: The limits that the user set.
        warnings: What limits these figures, one sentence each.
        executions: What calibration cost; None where nothing ran.
        seconds: Wall time of each part of the run, by name.
        permutation: The order of input channels; None where it was not asked for.
        refinement: What came of the refinement; None where it was not asked for.
        estimate: A bound of the speed-up, never a measurement; None where it is unknown.
        engine: What was built and timed; None where nobody asked.
        budget: Which layers were left dense to keep a limit; None where nobody asked.
        faults: The stages that failed after the layers were solved; none where all went well.
        files: Every file that the run wrote, by its name in the output folder; `--force` removes no other. Those beside
            the folder begin with `../`.
        interface: Inputs and outputs of the ONNX file that was written.
        compressed: Bytes of the written model after zlib at level 1; None where it was not measured.
        device: The device that it was computed on; None in reports of earlier versions.
        schema_version: Version of this format; it changes when a reader of the JSON would have to.
    """

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
    permutation: PermutationReport | None = None
    refinement: RefinementReport | None = None
    estimate: Estimate | None = None
    engine: EngineReport | None = None
    budget: BudgetReport | None = None
    faults: tuple[Fault, ...] = ()
    files: tuple[str, ...] = ()
    interface: ModelInterface = field(default_factory=ModelInterface)
    compressed: int | None = None
    device: DeviceReport | None = None
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        """What a person who works with it wants to see: the model, how many layers are sparse, the metrics."""
        metrics = [f"{name} {dense:g} → {sparse:g}" for name, dense, sparse in self._list_metrics()]
        said = [f"{len(self.sparse_layers)} of {len(self.layers)} layers sparse", *metrics]
        return f"Report({self.output.path}: {', '.join([*said, 'passed' if self.passed else 'FAILED'])})"

    def _repr_html_(self) -> str:
        """The same as a table, which notebooks show."""
        rows = [("sparse layers", str(len(self.layers)), str(len(self.sparse_layers)))]
        rows += [(name, f"{dense:g}", f"{sparse:g}") for name, dense, sparse in self._list_metrics()]
        rows += [
            (gate.name, f"{gate.limit:g} {gate.unit}", "passed" if gate.passed else "failed") for gate in self.gates
        ]
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "<tr><th></th><th>dense, or limit</th><th>sparse, or verdict</th></tr>"
        return f"<p><b>{html.escape(self.output.path)}</b></p><table>{head}{cells}</table>"

    def _list_metrics(self) -> list[tuple[str, float, float]]:
        found = self.accuracy
        return [] if found is None else [(name, dense, found.sparse[name]) for name, dense in found.dense.items()]

    def to_pandas(self) -> Any:
        """Returns the layers as a `pandas.DataFrame`, a row for each, with the attributes of `LayerReport` as columns.

        Raises:
            UnavailableError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - only this needs it
        except ImportError as error:
            raise UnavailableError(
                f"to_pandas needs pandas, and {describe_missing(error, 'pandas')}. Install it with: pip install pandas."
            ) from error
        return pd.DataFrame([asdict(layer) for layer in self.layers])

    @property
    def sparse_layers(self) -> Sequence[LayerReport]:
        """The layers that were pruned, in network order."""
        return [layer for layer in self.layers if layer.state == "sparse"]

    @property
    def passed(self) -> bool:
        """Whether every gate passed and no stage failed."""
        return all(gate.passed for gate in self.gates) and not self.faults

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON.

        Infinities and NaN, which JSON cannot hold as numbers, become the texts `"inf"`, `"-inf"` and `"nan"`.
        """
        plain: dict[str, Any] = _plain(asdict(self))
        return {"schema_version": plain.pop("schema_version"), **plain}

    def to_json(self) -> str:
        """The report as the text of `report.json`. What no encoding takes, as in some names of files, is its code."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        return _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
