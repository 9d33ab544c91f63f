"""What a run found out about engines: states of every layer, latency, and the estimate where nothing was timed."""

from dataclasses import dataclass, field
from typing import Literal

EngineName = Literal["tensorrt", "torch", "onnxruntime", "none"]
SpeedVerdict = Literal["faster", "slower", "no measurable difference"]


@dataclass(frozen=True)
class LayerDiagnosis:
    """Three states of one pruned layer in a TensorRT engine, and what is missing.

    Attributes:
        name: Node of the ONNX model.
        pattern: Whether its weight is 2:4 along the reduction dimension in the file that was built.
        eligible: Whether the builder's log lists it as eligible for sparse tactics; None where there is no such log.
        chosen: Whether a sparse tactic computes it; None where neither log nor inspector tells.
        engine_layer: Layer of the engine that computes it; empty where it was not found.
        tactic: Its tactic; empty where it is not told.
        reason: Why a state is missing; empty where all three hold.
        remedy: What can be done about it; empty where nothing can.
        disagreement: What builder log and inspector contradict each other in; empty where they agree.
    """

    name: str
    pattern: bool
    eligible: bool | None
    chosen: bool | None
    engine_layer: str = ""
    tactic: str = ""
    reason: str = ""
    remedy: str = ""
    disagreement: str = ""


@dataclass(frozen=True)
class Distribution:
    """Times of one model, in milliseconds, by the names that trtexec gives them.

    Attributes:
        runs: How many were timed.
        min: Shortest.
        max: Longest.
        mean: Mean.
        median: Median.
        p90: `percentile(90%)`.
        p95: `percentile(95%)`.
        p99: `percentile(99%)`.
        throughput: Queries per second, one query being one run: 1000 / mean.
        variation: Coefficient of variation: standard deviation / mean.
        quantiles: At 0, 1, …, 100 per cent.
    """

    runs: int
    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    throughput: float
    variation: float
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """Median of one model over the median of another, with its 95 % bootstrap interval; above 1: the other is faster.

    Attributes:
        value: Ratio of the medians.
        low: Lower end of the interval.
        high: Upper end.
        verdict: `no measurable difference` where the interval holds 1.0.
    """

    value: float
    low: float
    high: float
    verdict: SpeedVerdict


@dataclass(frozen=True)
class LatencyPoint:
    """Dense against sparse at one set of input shapes, interleaved on the same inputs.

    Attributes:
        shapes: By input.
        batch: First axis of the first input.
        dense: The dense model.
        sparse: The sparse model, sparse tactics allowed.
        flag_off: The sparse model, sparse tactics not allowed; None where the engine has no such switch.
        speedup: Dense over sparse.
        flag_speedup: Flag off over flag on, of the same sparse weights.
        valid: Whether the figures can be trusted.
        reasons: Why not.
        warnings: What limits them all the same, e.g. unlocked clocks.
    """

    shapes: dict[str, tuple[int, ...]]
    batch: int
    dense: Distribution
    sparse: Distribution
    flag_off: Distribution | None
    speedup: Ratio
    flag_speedup: Ratio | None
    valid: bool
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTime:
    """Mean time of one layer in a profiled run of its own, in milliseconds; None where an engine has no such layer."""

    name: str
    dense_ms: float | None
    sparse_ms: float | None


@dataclass(frozen=True)
class ShapeShare:
    """Linear layers of one shape, and their share of the floating-point operations of one call.

    Attributes:
        k: Reduction dimension.
        n: Output dimension.
        tokens: Rows that are multiplied in one call.
        layers: How many layers there are.
        sparse: How many of them are pruned.
        flops: `2·tokens·k·n` of all of them.
        share: `flops` as a share of all linear layers'.
    """

    k: int
    n: int
    tokens: int
    layers: int
    sparse: int
    flops: float
    share: float


@dataclass(frozen=True)
class Estimate:
    """What could be gained at best; never a measurement.

    Attributes:
        flops: Of all linear layers, eligible or not, in one call.
        sparse_share: Share of it in pruned layers.
        bound: Amdahl's bound `1 / (1 − share/2)`: sparse matrix instructions have at most twice the dense rate.
        shapes: By shape, the largest share first.
        not_counted: Products that are in none of these figures, by kind and reason, with their number.
    """

    flops: float
    sparse_share: float
    bound: float
    shapes: tuple[ShapeShare, ...]
    not_counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineReport:
    """What was built and timed.

    Attributes:
        engine: Which; `none` where nothing was.
        version: Of its library.
        precision: `fp16`, `bf16` or `fp32`.
        device: What it ran on.
        not_measured: Why there is no speed-up to report, in one sentence; empty where there is one.
        files: What was written, by kind, relative to the output folder.
        layers: Three states of every pruned layer; TensorRT only.
        disagreements: Between builder log and inspector.
        latency: One point for each set of shapes.
        layer_times: Of a separate profiled run.
        accuracy: Metrics of the lower-precision sparse model by name, where it was measured.
        kept_in_fp32: Nodes that conversion left in float32, with the reason.
        notes: What else conversion has to say, e.g. that the weights were float16 already.
    """

    engine: EngineName
    version: str = ""
    precision: str = ""
    device: str = ""
    not_measured: str = ""
    files: dict[str, str] = field(default_factory=dict)
    layers: tuple[LayerDiagnosis, ...] = ()
    disagreements: tuple[str, ...] = ()
    latency: tuple[LatencyPoint, ...] = ()
    layer_times: tuple[LayerTime, ...] = ()
    accuracy: dict[str, float] = field(default_factory=dict)
    kept_in_fp32: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
