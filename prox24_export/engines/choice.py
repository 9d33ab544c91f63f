"""Which engine a run measures with, which is found out before any work."""

from dataclasses import dataclass

from prox24_export.errors import InputError, UnavailableError
from prox24_export.option_values import Engine, Precision
from prox24_export.results.engine import EngineName

NOT_OF_TORCH = {"fp32", "int8"}  # precisions in which torch.sparse is not timed
REMEDY = "Leave --min-speedup out, or run where TensorRT or a CUDA GPU is."


@dataclass(frozen=True)
class EngineRequest:
    """What the user asks for.

    Attributes:
        engine: The engine to measure with; `auto` for the best that can be used here.
        precision: The precision of the engines; None for fp16, where files are written only if TensorRT builds engines.
        min_speedup: The least speed-up, which takes an engine that measures one; None where there is no limit.
    """

    engine: Engine = "auto"
    precision: Precision | None = None
    min_speedup: float | None = None


@dataclass(frozen=True)
class EngineChoice:
    """What a run will measure.

    Attributes:
        engine: The engine to measure with; `none` where nothing is measured.
        precision: The precision of the engines, and of the ONNX files that are written for them.
        writes_files: Whether ONNX files in that precision are written even without TensorRT.
        why_not: Why there will be no speed-up to report, in one sentence; empty where there will be one.
    """

    engine: EngineName
    precision: Precision
    writes_files: bool = False
    why_not: str = ""


def choose_engine(request: EngineRequest, *, has_onnx: bool) -> EngineChoice:
    """Chooses the engine that the user asks for; with `auto`, the best that can be used here.

    Args:
        request: What the user asks for.
        has_onnx: Whether the run has, or writes, the model as ONNX files, which TensorRT and ONNX Runtime read.

    Raises:
        UnavailableError: The engine, or a speed-up, that was asked for cannot be had here.
        InputError: An engine that reads ONNX files was asked for, and the model is none.
    """
    choice = _choose(request, has_onnx=has_onnx)
    if request.min_speedup is not None and choice.engine not in {"tensorrt", "torch"}:
        why = choice.why_not or "ONNX Runtime has no sparse kernels."
        raise UnavailableError(f"--min-speedup needs a speed-up, and none can be measured here: {why} {REMEDY}")
    return choice


def _choose(request: EngineRequest, *, has_onnx: bool) -> EngineChoice:
    from prox24_export.engines.torch_sparse import measure as torch_sparse  # noqa: PLC0415 (looks for libraries)
    from prox24_export.passes.emit_engine import tensorrt  # noqa: PLC0415 (looks for libraries)

    asked, writes = request.engine, request.precision is not None
    precision: Precision = request.precision or "fp16"
    if asked in {"tensorrt", "onnxruntime"} and not has_onnx:
        raise InputError(
            f"--engine {asked} reads ONNX files, and this model is not one. Add --onnx, or use --engine torch."
        )
    if writes and not has_onnx and asked != "torch":
        raise InputError(
            "--precision converts ONNX files, and this model is not one. Add --onnx, or leave --precision out."
        )
    if asked == "tensorrt":
        tensorrt.require_tensorrt()
    if asked == "torch" and precision in NOT_OF_TORCH:
        raise InputError("--engine torch multiplies in fp16 or bf16. Use one of them with --precision.")
    if asked == "torch":
        torch_sparse.require_torch_sparse()
    if asked == "none":
        return EngineChoice("none", precision, writes, "--engine none was asked for.")
    if asked != "auto":
        return EngineChoice(asked, precision, writes)
    there, torch = tensorrt.availability(), torch_sparse.availability()
    if there.available and has_onnx:
        return EngineChoice("tensorrt", precision, writes)
    if torch.available and precision not in NOT_OF_TORCH:
        return EngineChoice("torch", precision, writes)
    first = there.reason if has_onnx else "it reads ONNX files, and this model is not one; --onnx writes one."
    return EngineChoice(
        "none",
        precision,
        writes,
        f"TensorRT: {first} torch.sparse: {torch.reason or f'it does not compute in {precision}.'}",
    )
