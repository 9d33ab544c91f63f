"""A run with everything that a page can show: an engine with three states, latency over batches, an estimate, masks."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from prox24_export.results.change import Change
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
    Report,
)
from tests.report import example


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
    not_counted=(),
    of_activations=24,
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
    """The run of `example`, with a second metric, an inconclusive gate, an estimate and an engine."""
    report = example.build(count)
    assert report.accuracy is not None
    report = replace(
        report,
        accuracy=replace(
            report.accuracy,
            dense={"top1": 97.6, "my_score": 3.25},
            sparse={"top1": 97.2, "my_score": 3.2},
            changes=(Change("top1", -0.4, -0.93, 0.12, 1096),),
        ),
        gates=(replace(report.gates[0], verdict="inconclusive", low=-0.12, high=0.93), report.gates[1]),
        estimate=ESTIMATE,
    )
    return replace(report, **{"engine": engine(report), **changes})
