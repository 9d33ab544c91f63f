"""A run with everything that a page can show: an engine with three states, latency over batches, an estimate, masks."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prox24_export.results.engine import (
    Distribution,
    EngineReport,
    Estimate,
    LatencyPoint,
    LayerDiagnosis,
    LayerTime,
    Ratio,
    ShapeShare,
    SpeedVerdict,
)
from prox24_export.results.report import (
    AccuracyReport,
    Change,
    DataFacts,
    EpochReport,
    Executions,
    FileFacts,
    Gate,
    LayerReport,
    OutputReport,
    RefinementReport,
    Report,
)
from tests.report.example import LEFT_DENSE, budget

STEPS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
DENSE = (
    ("Conv", "grouped or depthwise convolution: TensorRT has no sparse kernel for it (groups = 64)"),
    ("MatMul", "the weight is not a constant of the model"),
    ("Gemm", "the reduction dimension is not a multiple of 4 (K = 35)"),
    ("MatMul", "excluded by the user (--exclude */head/*)"),
)


def layer(index: int, count: int = 98) -> LayerReport:
    """Every fourth layer is dense."""
    block, step = divmod(index, len(STEPS))
    name, k, n = f"/encoder/layers.{block}/{STEPS[step]}/MatMul", 1024 if step == 5 else 256, 1024 if step == 4 else 256
    if index % 4 == 3:
        op, reason = DENSE[index // 4 % len(DENSE)]
        return LayerReport(name, op, None, None, None, 0, 0.0, "dense", reason)
    return LayerReport(
        name=name,
        op="MatMul",
        weight=f"encoder.layers.{block}.{STEPS[step]}.weight",
        k=k,
        n=n,
        parameters=k * n,
        share=0.9 / count,
        state="sparse",
        notes=("one weight, 2 uses",) if step == 0 else (),
        relative_error=0.004 * (1 + index % 7) * (1 + step) * (1 + block / 100),
        blend=1.0,
        damping=0.003,
        iterations=140 + index,
        seconds=0.42,
        status="every group settled on its mask",
    )


def diagnosis(index: int, name: str) -> LayerDiagnosis:
    """Chosen, eligible but not chosen, and not eligible take turns, with a disagreement now and then."""
    if index % 3 == 0:
        return LayerDiagnosis(name, pattern=True, eligible=True, chosen=True, engine_layer=name, tactic="sm80_sp_gemm")
    if index % 3 == 1:
        reason = "the builder timed a dense tactic as faster"
        remedy = "try a larger batch"
        return LayerDiagnosis(name, pattern=True, eligible=True, chosen=False, reason=reason, remedy=remedy)
    unclear = "the builder log lists it as chosen; the inspector shows a dense tactic" if index % 6 == 5 else ""
    chosen = None if unclear else False
    reason = "the builder’s log does not list it as eligible"
    return LayerDiagnosis(name, pattern=True, eligible=False, chosen=chosen, reason=reason, disagreement=unclear)


def distribution(median: float, spread: float = 0.04) -> Distribution:
    """Quantiles of a skewed distribution around a median."""
    quantiles = tuple(median * (1 + spread * (math.exp(2.2 * q / 100) - math.exp(1.1))) for q in range(101))
    return Distribution(
        runs=1_000,
        min=quantiles[0],
        max=quantiles[100] * 3,
        mean=median * 1.01,
        median=median,
        p90=quantiles[90],
        p95=quantiles[95],
        p99=quantiles[99],
        throughput=1000 / median,
        variation=spread,
        quantiles=(*quantiles[:100], quantiles[100] * 3),
    )


def point(batch: int, value: float, verdict: SpeedVerdict = "faster", **changes: Any) -> LatencyPoint:
    """Dense over sparse is `value`."""
    sparse = 0.4 + 0.11 * batch
    found = LatencyPoint(
        shapes={"audio": (batch, 98, 40)},
        batch=batch,
        dense=distribution(sparse * value),
        sparse=distribution(sparse),
        flag_off=distribution(sparse * value * 1.01),
        speedup=Ratio(value, value - 0.03, value + 0.04, verdict),
        flag_speedup=Ratio(value * 1.01, value - 0.02, value + 0.05, verdict),
        valid=True,
    )
    return replace(found, **changes)


def engine(report: Report, **changes: Any) -> EngineReport:
    """TensorRT, with three states of every pruned layer and four batches, one of which cannot be trusted."""
    names = [found.name for found in report.sparse_layers]
    unsteady = ("the GPU’s clocks changed during the runs: 1,410 to 1,095 MHz",)
    found = EngineReport(
        engine="tensorrt",
        version="10.16.1.11",
        precision="fp16",
        device="NVIDIA A100-SXM4-80GB",
        files={"dense": "engines/dense.plan", "sparse": "engines/sparse.plan"},
        layers=tuple(diagnosis(index, name) for index, name in enumerate(names)),
        disagreements=("the builder log counts 26 layers with sparse tactics, the inspector shows 25",),
        latency=(
            point(1, 1.01, "no measurable difference", warnings=("clocks were not locked",)),
            point(8, 1.12),
            point(32, 1.21),
            point(64, 1.27, valid=False, reasons=unsteady),
        ),
        layer_times=tuple(LayerTime(name, 0.02 + 0.001 * i, 0.015) for i, name in enumerate(names[:50])),
        accuracy={"top1": 97.3},
        kept_in_fp32={"/norm/ReduceMean": "values above 65,504"},
    )
    return replace(found, **changes)


ESTIMATE = Estimate(
    flops=3.2e9,
    sparse_share=0.78,
    bound=1 / (1 - 0.39),
    shapes=(
        ShapeShare(256, 1024, 98, 16, 12, 1.3e9, 0.41),
        ShapeShare(1024, 256, 98, 16, 14, 1.1e9, 0.34),
        ShapeShare(256, 256, 98, 66, 48, 0.8e9, 0.25),
    ),
    not_counted=("MatMul, the weight is not a constant of the model: 24",),
)


def masks(report: Report, seed: int = 0) -> dict[str, npt.NDArray[np.bool_]]:
    """A random 2:4 mask of every pruned layer, no larger than a corner needs."""
    generator, found = np.random.default_rng(seed), {}
    for entry in report.sparse_layers:
        n, k = min(entry.n or 1, 96), min(entry.k or 4, 96)
        order = generator.random((n, k // 4, 4)).argsort(axis=-1)
        found[entry.name] = (order < 2).reshape(n, k)
    return found


def build(count: int = 98, **changes: Any) -> Report:
    """A run whose accuracy gate is inconclusive; `changes` replace fields."""
    report = Report(
        tool="prox24-export 0.1.0",
        versions={"python": "3.11.9", "onnxruntime": "1.23.0", "torch": "2.8.0"},
        machine={"system": "Linux x86_64", "cores": 8},
        started="2026-03-04T05:06:07+00:00",
        settings={"method": "prox", "include": (), "exclude": ("*/head/*",), "seed": 0, "damping": None, "shapes": {}},
        input=FileFacts("models/kwt1.onnx", 13_421_772, "a" * 64),
        output=FileFacts("kwt1-2to4/model.onnx", 13_421_773, "b" * 64),
        data=DataFacts("clips/train.npz", "clips/train.npz", fit=3508, choice=877, report=1096, is_random=False),
        layers=tuple(layer(index, count) for index in range(count)),
        accuracy=AccuracyReport(
            samples=1096,
            dense={"top1": 97.6, "my_score": 3.25},
            sparse={"top1": 97.2, "my_score": 3.2},
            outputs=(
                OutputReport("logits", 21.34, 0.996412, 1.82, 0.9881),
                OutputReport("embedding", 17.05, 0.990136, 0.734, None),
            ),
            changes=(Change("top1", -0.4, -0.93, 0.12, 1096),),
        ),
        gates=(
            Gate("max-accuracy-drop", 0.4, 0.5, "points", passed=True, verdict="inconclusive", low=-0.12, high=0.93),
            Gate("min-snr", 17.05, 15, "dB", passed=True),
        ),
        warnings=("12 samples were left out: their shapes fit no other.",),
        executions=Executions(calibration=18_240, dense_pass=7_600, stages=41),
        seconds={"calibrate": 38.2, "solve": 31.1, "verify": 0.4},
        refinement=RefinementReport(
            kept=True,
            reason="the held-back samples' objective went from 0.52 to 0.31",
            mode="model",
            samples=877,
            before=0.52,
            after=0.31,
            curve=tuple(
                EpochReport(0, epoch, None if epoch == 0 else 0.6 / (1 + epoch), 0.3 + 0.22 / (1 + epoch))
                for epoch in range(7)
            ),
            seconds=41.5,
        ),
        estimate=ESTIMATE,
    )
    return replace(report, **{"engine": engine(report), **changes})


def with_budget(report: Report) -> Report:
    """One of the dense layers could be sparse, and is not, to keep a limit on top-1."""
    name = report.layers[LEFT_DENSE].name
    found = budget([entry.name for entry in (*report.sparse_layers, report.layers[LEFT_DENSE])])
    reason = f"left dense to keep the accuracy budget (1 layers, {found.parameters:,} weights)"
    kept = replace(layer(2), name=name, weight=f"{name}.weight", state="dense", reason=reason)
    layers = (*report.layers[:LEFT_DENSE], kept, *report.layers[LEFT_DENSE + 1 :])
    return replace(report, layers=layers, budget=found)


def nothing_eligible() -> Report:
    """Dense layers only: the output is the input."""
    same = FileFacts("depthwise-2to4/model.onnx", 9_000, "c" * 64)
    absent = ("data", "accuracy", "executions", "refinement", "estimate", "engine")
    nothing: dict[str, Any] = {**dict.fromkeys(absent), "gates": (), "warnings": ()}
    return build(input=same, output=same, layers=tuple(layer(index) for index in range(3, 24, 4)), **nothing)
