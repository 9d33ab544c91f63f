"""A run as one would see it: a speech transformer, some layers sparse, the others dense for real reasons."""

from dataclasses import replace
from typing import Any

from prox24_export.results.budget import BudgetDecision, BudgetPoint, BudgetReport, SensitivityReport, UnitSensitivity
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
)
from prox24_export.results.report import (
    AccuracyReport,
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

DENSE = (
    ("Conv", "grouped or depthwise convolution: TensorRT has no sparse kernel for it (groups = 64)"),
    ("MatMul", "the weight is not a constant of the model"),
    ("Gemm", "the reduction dimension is not a multiple of 4 (K = 35)"),
    ("MatMul", "excluded by the user (--exclude */head/*)"),
)
LEFT_DENSE = 7  # of twelve layers, the one that `full` leaves dense to keep its budget
STEPS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def layer(index: int, count: int = 98) -> LayerReport:
    """Every fourth layer is dense; errors grow with depth and with the second dense layer of a block."""
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


def build(count: int = 98, **changes: Any) -> Report:
    """A run that passed both of its gates; `changes` replace fields."""
    report = Report(
        tool="prox24-export",
        versions={"python": "3.11.9", "prox24-export": "0.1.0", "onnxruntime": "1.23.0", "torch": "2.8.0"},
        machine={"system": "Linux x86_64", "cores": 8},
        started="2026-03-04T05:06:07+00:00",
        settings={"method": "prox", "include": (), "exclude": ("*/head/*",), "seed": 0, "damping": None, "shapes": {}},
        input=FileFacts("models/kwt1.onnx", 13_421_772, "a" * 64),
        output=FileFacts("kwt1-2to4/model.onnx", 13_421_773, "b" * 64),
        data=DataFacts("clips/train.npz", "clips/train.npz", fit=3508, choice=877, report=1096, is_random=False),
        layers=tuple(layer(index, count) for index in range(count)),
        accuracy=AccuracyReport(
            samples=1096,
            dense={"top1": 97.6},
            sparse={"top1": 97.2},
            outputs=(
                OutputReport("logits", 21.34, 0.996412, 1.82, 0.9881),
                OutputReport("embedding", 17.05, 0.990136, 0.734, None),
            ),
        ),
        gates=(
            Gate("max-accuracy-drop", 0.4, 0.5, "points", passed=True),
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
    )
    return replace(report, **changes)


def nothing_eligible() -> Report:
    """Dense layers only: the output is the input."""
    same = FileFacts("depthwise-2to4/model.onnx", 9_000, "c" * 64)
    nothing: dict[str, Any] = {
        "data": None,
        "accuracy": None,
        "gates": (),
        "warnings": (),
        "executions": None,
        "refinement": None,
    }
    return build(input=same, output=same, layers=tuple(layer(index) for index in range(3, 24, 4)), **nothing)


def with_budget(report: Report) -> Report:
    """One of the dense layers could be sparse, and is not, to keep a limit on top-1."""
    name = report.layers[LEFT_DENSE].name
    found = budget([entry.name for entry in (*report.sparse_layers, report.layers[LEFT_DENSE])])
    reason = f"left dense to keep the accuracy budget (1 layers, {found.parameters:,} weights)"
    kept = replace(layer(2), name=name, notes=(), state="dense", reason=reason)
    layers = (*report.layers[:LEFT_DENSE], kept, *report.layers[LEFT_DENSE + 1 :])
    return replace(report, layers=layers, budget=found)


def full() -> Report:
    """One fixed run in which every part of a report is filled, and every kind of verdict occurs."""
    short = build(12, seconds={"calibrate": 38.2, "solve": 31.1, "verify": 0.4, "total": 112.5})
    assert short.accuracy is not None
    return replace(
        with_budget(short),
        accuracy=replace(
            short.accuracy,
            dense={"top1": 97.6, "word_errors": 4.125},
            sparse={"top1": 97.2, "word_errors": 4.25},
            changes=(Change("top1", -0.4, -1.1, 0.2, 1096),),
            outputs=(
                replace(short.accuracy.outputs[0], snr_low=20.9, snr_high=21.8),
                replace(short.accuracy.outputs[1], psnr_db=24.2),
            ),
            better={"top1": "higher", "word_errors": "lower"},
        ),
        gates=(
            Gate("max-accuracy-drop", 0.4, 0.5, "points", passed=True, verdict="inconclusive", low=-0.2, high=1.1),
            Gate("min-snr", 17.05, 15, "dB", passed=True, verdict="passed"),
            Gate("max-metric-change", 0.125, 0.1, "", passed=False, verdict="failed"),
            Gate("min-speedup", 1.231, 1.25, "", passed=False, verdict="inconclusive", low=1.19, high=1.27),
            Gate("min-sparse-layers", None, 5, "layers", passed=False, verdict="failed"),
        ),
        estimate=Estimate(
            flops=3.2e9,
            sparse_share=0.74,
            bound=1 / 0.63,
            shapes=(
                ShapeShare(256, 1024, 98, 4, 3, 1.6e9, 0.5),
                ShapeShare(256, 256, 98, 8, 6, 1.6e9, 0.5),
            ),
            not_counted=("2 × MatMul: inside an If, Loop or Scan body",),
            of_activations=8,
        ),
        engine=_engine([layer.name for layer in short.sparse_layers]),
    )


def point(order: str, layers: int, value: float, **changes: Any) -> BudgetPoint:
    """A variant with layers of 65,536 weights dense, whose top-1 may fall by half a point."""
    found = BudgetPoint(order, layers, 65_536 * layers, layers / 10, "top1", value, 0.1, 0.5, value <= 0.4, False)
    return replace(found, **changes)


GAIN = "loss gained where dense, per share of the expected gain"
ALONE = "loss where pruned alone, per parameter"


def budget(names: list[str]) -> BudgetReport:
    """Two orders are searched; the last of these layers is left dense in the end, by steps after the first order."""
    first, last = names[0], names[-1]
    units = tuple(
        UnitSensitivity(name, (name,), stage, 65_536, 0.1, 0.01 * (stage + 1), 0.08 - 0.004 * stage, 0.002 * stage)
        for stage, name in enumerate(names)
    )
    sparse = "sparse again: top1 then loses 0.33 ± 0.1, limit 0.5; loss 0.08 pruned, 0.08 with it dense"
    return BudgetReport(
        samples=219,
        errors=1.0,
        sensitivity=SensitivityReport(877, ("kl",), 0.08, units),
        curve=(
            point("everything pruned", 0, 1.31),
            *(point(GAIN, layers, value) for layers, value in ((5, 0.12), (2, 0.52), (3, 0.3))),
            point(f"{first} sparse again", 2, 0.33),
            *(point(ALONE, layers, value) for layers, value in ((5, 0.21), (2, 0.55), (3, 0.4))),
            point("the first of these", 1, 0.38, solved_again=True),
        ),
        decisions=tuple(
            BudgetDecision(name, "dense", "needed for the limit; loss 0.08 pruned, 0.044 with it dense")
            if name == last
            else BudgetDecision(name, "sparse", sparse if name == first else "not needed for the limit; loss 0.08")
            for name in names
        ),
        dense=(last,),
        parameters=65_536,
        solved_again=True,
        verdict="kept",
        seconds=12.5,
    )


def only_dense() -> Report:
    """Whatever was eligible is left dense: no variant kept the limit."""
    report = full()
    assert report.budget is not None
    units = report.budget.sensitivity.units
    names = {unit.name for unit in units}
    dense = replace(
        report.budget,
        curve=tuple(replace(entry, fits=False, value=entry.value + 1) for entry in report.budget.curve),
        decisions=tuple(BudgetDecision(unit.name, "dense", "needed for the limit; loss 0.08") for unit in units),
        dense=tuple(unit.name for unit in units),
        parameters=65_536 * len(names),
        verdict="only dense",
    )
    reason = f"left dense to keep the accuracy budget ({len(names)} layers, {dense.parameters:,} weights)"
    layers = (replace(entry, state="dense", reason=reason) if entry.name in names else entry for entry in report.layers)
    same = replace(report.output, sha256=report.input.sha256)
    return replace(report, layers=tuple(layers), budget=dense, output=same, engine=None, estimate=None)


def times(median: float, *, runs: int = 3000) -> Distribution:
    """A distribution that rises evenly from 4 % below its median to 4 % above."""
    quantiles = tuple(round(median * (0.96 + 0.0008 * per_cent), 6) for per_cent in range(101))
    return Distribution(
        runs=runs,
        min=quantiles[0],
        max=quantiles[100],
        mean=median,
        median=quantiles[50],
        p90=quantiles[90],
        p95=quantiles[95],
        p99=quantiles[99],
        throughput=1000 / median,
        variation=0.023,
        quantiles=quantiles,
    )


def _engine(names: list[str]) -> EngineReport:
    """A build that chose sparse tactics for some layers, and was timed with two batches."""
    states = [
        LayerDiagnosis(name, True, True, True, f"{name}_myl0_{place}", "sm80_sparse_gemm_f16f16_128x128")
        for place, name in enumerate(names)
    ]
    states[1] = replace(
        states[1],
        chosen=False,
        tactic="sm80_xmma_gemm_f16f16_64x64",
        reason="a dense tactic was faster by 0.0031 ms",
        remedy="try a larger batch",
    )
    states[2] = replace(states[2], eligible=False, chosen=False, engine_layer="", tactic="", reason="a plugin took it")
    states[3] = replace(states[3], eligible=None, chosen=None, disagreement="the log has it, the inspector has not")
    return EngineReport(
        engine="tensorrt",
        version="10.16.1",
        precision="fp16",
        device="NVIDIA A30",
        files={"dense": "engines/dense.fp16.onnx", "sparse": "engines/sparse.engine", "log": "engines/build.log"},
        layers=tuple(states),
        disagreements=("log and inspector disagree on 1 layer",),
        latency=(
            LatencyPoint(
                shapes={"clip": (1, 98, 40)},
                batch=1,
                dense=times(0.812),
                sparse=times(0.66),
                flag_off=times(0.731),
                speedup=Ratio(1.231, 1.19, 1.27, "faster"),
                flag_speedup=Ratio(1.108, 1.06, 1.15, "faster"),
                valid=True,
                warnings=("the clocks are not locked",),
            ),
            LatencyPoint(
                shapes={"clip": (8, 98, 40)},
                batch=8,
                dense=times(2.1, runs=800),
                sparse=times(2.05, runs=800),
                flag_off=None,
                speedup=Ratio(1.024, 0.98, 1.07, "no measurable difference"),
                flag_speedup=None,
                valid=False,
                reasons=("sparse: coefficient of variation 3.1 %, more than 2.5 %",),
            ),
        ),
        layer_times=(LayerTime(names[0], 0.021, 0.013), LayerTime(names[1], 0.02, None)),
        accuracy={"top1": 97.1},
        kept_in_fp32={"/encoder/norm/ReduceMean": "values beyond 65,504 on calibration data"},
    )


def later(report: Report) -> Report:
    """The same model a week later: one layer fewer, a little faster, and less accurate."""
    assert report.accuracy is not None
    assert report.engine is not None
    first, second = report.engine.latency
    faster = replace(first, sparse=replace(first.sparse, median=0.62), speedup=replace(first.speedup, value=1.31))
    return replace(
        report,
        started="2026-03-11T05:06:07+00:00",
        versions=report.versions | {"prox24-export": "0.2.0"},
        settings=report.settings | {"exclude": ("*/head/*", "*/q_proj/*"), "onnx": True},
        output=replace(report.output, bytes=13_500_000),
        layers=(replace(layer(3), name=report.layers[0].name, reason="excluded by the user"), *report.layers[1:]),
        accuracy=replace(report.accuracy, sparse={"top1": 96.9, "word_errors": 4.25}),
        gates=(replace(report.gates[0], passed=False, verdict="failed", value=0.7), *report.gates[1:]),
        engine=replace(report.engine, latency=(faster, second)),
    )
