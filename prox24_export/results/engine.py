"""What a run found out about engines: states of every layer, the latency, and the estimate of what can be gained."""

from dataclasses import dataclass, field
from typing import Literal

from prox24_export.results.change import Change

EngineName = Literal["tensorrt", "torch", "onnxruntime", "none"]
SpeedVerdict = Literal["faster", "slower", "no measurable difference"]


@dataclass(frozen=True)
class LayerDiagnosis:
    """The three states of one pruned layer in an engine, and why one of them is missing.

    Attributes:
        name: Node name in the ONNX model.
        pattern: Whether its weight is 2:4 along the reduction dimension in the file that was built.
        eligible: Whether the builder's log lists it as eligible for sparse tactics; None where there is no such log.
        chosen: Whether a sparse tactic computes it; None where neither the log nor the inspector tells.
        engine_layer: Layer of the engine that computes it; empty where it was not found.
        tactic: Name of the tactic that computes it; empty where it is not told.
        reason: Why a state is missing; empty where all three hold.
        remedy: What can be done about it; empty where nothing can.
        disagreement: Where the builder's log and the inspector contradict each other; empty where they agree.
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
    """Run times of one model in milliseconds, by the names that trtexec gives them.

    Attributes:
        runs: Number of runs that were timed.
        min: The shortest time.
        max: The longest time.
        mean: The mean of the times.
        median: The median of the times.
        p90: The 90th percentile, `percentile(90%)`.
        p95: The 95th percentile, `percentile(95%)`.
        p99: The 99th percentile, `percentile(99%)`.
        throughput: Queries per second, where one query is one run: 1000 / mean.
        variation: Coefficient of variation: standard deviation / mean.
        quantiles: The quantiles at 0, 1, …, 100 per cent.
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
    """Median time of one model over the median time of another; above 1 the other model is faster.

    Attributes:
        value: Ratio of the medians.
        low: Lower end of the 95 % bootstrap interval of the ratio.
        high: Upper end of the interval.
        verdict: `faster`, `slower`, or `no measurable difference` where the interval holds 1.0.
    """

    value: float
    low: float
    high: float
    verdict: SpeedVerdict


@dataclass(frozen=True)
class LatencyPoint:
    """The dense against the sparse model at one set of input shapes, timed in turns on the same inputs.

    Attributes:
        shapes: Shape of each input, by its name.
        batch: First axis of the first input.
        dense: Times of the dense model.
        sparse: Times of the sparse model, with sparse tactics allowed.
        flag_off: Times of the sparse model with sparse tactics not allowed; None where the engine has no such switch.
        speedup: Dense over sparse.
        flag_speedup: Sparse tactics not allowed over allowed, on the same sparse weights; None where the engine has no
            switch.
        valid: Whether the figures can be trusted.
        reasons: Why the figures cannot be trusted; empty where they can.
        warnings: What limits valid figures all the same, such as unlocked clocks.
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
    """Mean time of one layer in milliseconds, from a profiled run of its own.

    Attributes:
        name: Name of the layer in the engine.
        dense_ms: Time in the dense engine; None where it has no such layer.
        sparse_ms: Time in the sparse engine; None where it has no such layer.
    """

    name: str
    dense_ms: float | None
    sparse_ms: float | None


@dataclass(frozen=True)
class ShapeShare:
    """The linear layers of one shape, and their share of the floating-point operations of one call.

    Attributes:
        k: Reduction dimension.
        n: Output dimension.
        tokens: Number of rows that are multiplied in one call.
        layers: Number of layers of this shape.
        sparse: Number of them that are pruned.
        flops: Floating-point operations of all of them, `2·tokens·k·n` each.
        share: Share of `flops` in those of all linear layers.
    """

    k: int
    n: int
    tokens: int
    layers: int
    sparse: int
    flops: float
    share: float


@dataclass(frozen=True)
class GpuBound:
    """The most that the pruned layers can gain on one GPU, from shapes and peak rates; it is never a measurement.

    Attributes:
        name: Name of the GPU, as `inspect --gpu` takes it.
        title: The GPU as its vendor calls it.
        fp16: Time of all linear layers dense over their time with the pruned ones sparse, in fp16 or bf16; only layers
            of a shape for which sparse kernels are known to win gain.
        int8: The same in int8.
        layers: Number of pruned layers of such a shape.
    """

    name: str
    title: str
    fp16: float
    int8: float
    layers: int


@dataclass(frozen=True)
class Estimate:
    """A bound of what can be gained; it is never a measurement.

    Attributes:
        flops: Floating-point operations in one call of all linear layers that can be counted, eligible or not; 0 where
            there is nothing to count.
        sparse_share: Share of them in pruned layers.
        bound: Amdahl's bound `1 / (1 − share/2)`, since sparse matrix instructions have at most twice the dense rate.
        shapes: The layers by shape, the largest share first.
        not_counted: Linear layers that are in none of these figures: their kind, the reason and their number.
        of_activations: Number of products of two activations, as in attention. They are no linear layers, and in none
            of these figures.
        gpus: The most that can be gained on each GPU of the table.
    """

    flops: float
    sparse_share: float
    bound: float
    shapes: tuple[ShapeShare, ...]
    not_counted: tuple[str, ...] = ()
    of_activations: int = 0
    gpus: tuple[GpuBound, ...] = ()


@dataclass(frozen=True)
class EngineReport:
    """What was built and timed.

    Attributes:
        engine: Name of the engine; `none` where nothing was built or timed.
        version: Version of the engine's library.
        precision: `fp16`, `bf16`, `fp32` or `int8`.
        device: Name of the device that it ran on.
        not_measured: Why there is no speed-up to report, in one sentence; empty where there is one.
        files: Files that were written, by kind; paths are relative to the output folder.
        layers: The three states of every pruned layer; empty where the engine does not tell them.
        disagreements: Where the builder's log and the inspector contradict each other.
        latency: One point for each set of input shapes.
        layer_times: Times of the engine's layers, from a separate profiled run.
        accuracy: Metrics of the sparse model in the lower precision, by name; empty where they were not measured.
        kept_in_fp32: Nodes that the conversion left in float32, each with its reason.
        notes: What else the conversion has to say, such as that the weights were float16 already.
        dense_accuracy: Metrics of the dense model in INT8, by name; empty in other precisions.
        changes: Change of each metric of `accuracy` from the dense float32 model, with its interval; empty where it
            was not measured, or in another precision than INT8.
        float_outputs: Layers in INT8 whose result is not quantised, each with its reason.
        scales: How INT8 scales were chosen on held-back samples, for the `dense` and the `sparse` model; empty where
            they were not.
        sizes: Bytes on disk of each ONNX file in `files`, external data included, and of the float32 files under
            `dense float` and `sparse float`; empty in other precisions than INT8.
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
    dense_accuracy: dict[str, float] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    float_outputs: dict[str, str] = field(default_factory=dict)
    scales: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
