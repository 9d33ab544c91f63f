"""A run as one would see it: a speech transformer, some layers sparse, the others dense for real reasons."""

from dataclasses import replace
from typing import Any

from prox24_export.report.model import (
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
