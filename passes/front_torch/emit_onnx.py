"""Writes a traced torch program as an ONNX file, and checks the file against the program."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from prox24_export.errors import InputError, Prox24Error, UnavailableError, describe_missing, first_line
from prox24_export.passes.graph.arrays import EXTERNAL_ABOVE, Array
from prox24_export.passes.graph.protocol import Candidate, Feeds, Linear, TracedGraph
from prox24_export.passes.verify_pattern import PatternError, violations

CLOSE = 1e-3  # most difference, as share of the largest magnitude of an output
CLOSE_IN = {"bfloat16": 0.1, "float16": 0.02}  # by type of the weights: without kernels the file runs as a float32 copy


class OnnxMismatchError(Prox24Error):
    """The ONNX file does not compute what the traced program does."""


@dataclass(frozen=True)
class EmittedOnnx:
    """An ONNX file that was written.

    Attributes:
        path: The file.
        external: Whether its weights are in another file beside it.
    """

    path: Path
    external: bool


@dataclass(frozen=True)
class EmitOnnx:
    """The pass that writes an ONNX file, and its settings.

    Attributes:
        external_above: Size of the weights in bytes above which they go to a file beside the model.
    """

    external_above: int = EXTERNAL_ABOVE

    @staticmethod
    def requires(program: ExportedProgram, name: str) -> None:
        """Expects a program that torch can export to ONNX, as far as that is known before the export.

        Args:
            program: The traced program.
            name: Name of the model in messages.

        Raises:
            InputError: The program multiplies by grouped experts, or changes its own buffers.
            UnavailableError: onnxscript is not installed.
        """
        if changed := sorted(program.graph_signature.buffers_to_mutate.values()):
            raise InputError(
                f"{name} changes {', '.join(changed)} when it runs, and an ONNX file keeps nothing from run to run. "
                "Take such values as inputs, and return them as outputs. A Hugging Face directory can be pruned "
                "without --onnx."
            )
        if find_spec("onnxscript") is None:
            told = "an ONNX file of a torch model needs onnxscript. Install it with: pip install onnxscript."
            raise UnavailableError(told)
        if any("grouped_mm" in str(node.target) for node in program.graph.nodes):
            raise InputError(
                f"{name} multiplies by grouped experts, for which ONNX has no operator: no ONNX file can be written. "
                "A Hugging Face directory can be pruned without --onnx."
            )

    def call(self, *, program: ExportedProgram, file: Path) -> EmittedOnnx:
        """Writes a program as an ONNX file. What the file computes is compared by `verify_onnx`.

        Args:
            program: The traced program, with its weights in memory.
            file: The file to write.

        Raises:
            InputError: torch cannot export an operator.
            UnavailableError: onnxscript cannot be imported.
            OSError: The file cannot be written.
        """
        self.requires(program, str(file))
        size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
        try:
            with _silence_exporter():
                exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
                if exported is not None:
                    _fold_integers(exported.model)
        except ImportError as error:
            told = describe_missing(error, "onnxscript")
            advice = "Install it with: pip install onnxscript."
            raise UnavailableError(f"--onnx needs onnxscript: {told}. {advice}") from error
        except Exception as error:
            cause = error if error.__cause__ is None else error.__cause__  # torch's own message is of its reports
            raise InputError(f"torch cannot export the model to ONNX: {first_line(cause)}") from error
        if exported is None:
            raise InputError("torch returned no ONNX program for the model.")
        external = size > self.external_above
        exported.save(file, external_data=external)
        return EmittedOnnx(file, external)


def verify_onnx(written: TracedGraph, traced: TracedGraph, linears: Sequence[Linear], feeds: Feeds | None) -> None:
    """Checks that every pruned weight is in the ONNX file, 2:4 along its reduction axis, and that outputs agree.

    Args:
        written: The ONNX file, read again.
        traced: The torch program with the pruned weights.
        linears: Its pruned layers.
        feeds: One batch to compare outputs on; None where there is none. Those of a program that draws random numbers
            are not compared, since the file draws others.

    Raises:
        PatternError: No linear layer of the file holds a pruned weight as a 2:4 matrix.
        OnnxMismatchError: An output of the file differs from that of the program.
    """
    matrices = {
        (candidate.weight, candidate.layout): candidate.layout.to_matrix(written.stored(candidate.weight))
        for candidate in written.operators()
        if isinstance(candidate, Candidate)
    }
    there = Counter(_identify(matrix) for matrix in matrices.values() if not violations(matrix))
    for linear in linears:
        if not there[_identify(linear.layout.to_matrix(traced.stored(linear.weight)))]:
            raise PatternError(f"the ONNX file holds no 2:4 linear layer with the weight {linear.weight}.")
    if feeds is None or any(node.is_random for node in traced.nodes):
        return
    close = max((CLOSE_IN.get(linear.dtype, CLOSE) for linear in linears), default=CLOSE)
    # Inputs that the model does not read are gone from the file, of which a float32 copy may be run.
    ours_fed = {entry.name: feeds[entry.name].astype(entry.dtype, copy=False) for entry in written.inputs}
    pairs = zip(written.outputs, written.runner()(ours_fed), traced.runner()(feeds), strict=True)
    for name, ours, theirs in pairs:
        finite = np.isfinite(theirs) & np.isfinite(ours) if ours.shape == theirs.shape else np.zeros(0, bool)
        alike = ours.shape == theirs.shape and np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
        wide = [side.astype(np.float64)[finite] if alike else np.zeros(0) for side in (ours, theirs)]
        largest = float(np.abs(wide[1]).max(initial=0.0))
        apart = float(np.abs(wide[0] - wide[1]).max(initial=0.0)) if alike else np.inf
        if apart > close * largest:
            raise OnnxMismatchError(
                f"output {name} of the ONNX file differs from the torch model's by {apart:.3g}, of at most "
                f"{largest:.3g}. Expected agreement to {close:g} of that. Leave --onnx out, and report this."
            )


def _fold_integers(model: ir.Model) -> None:
    """Stores integers that are computed from stored ones, such as axes: TensorRT's parser takes only stored axes.

    Weights are left as they are, so that they keep their names and layouts.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from onnxscript.optimizer import fold_constants  # noqa: PLC0415 (optional)

    def is_of_integers(node: ir.Node) -> bool:
        constants = [value.const_value for value in node.inputs if value is not None]
        return all(constant is not None and constant.dtype.is_integer() for constant in constants)

    fold_constants(model, onnx_shape_inference=False, should_fold=is_of_integers)


def _identify(matrix: Array) -> tuple[tuple[int, ...], bytes]:
    return matrix.shape, np.ascontiguousarray(matrix).tobytes()


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silences torch's exporter, which tells of packages that are not installed and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
