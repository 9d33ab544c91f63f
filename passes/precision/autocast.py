"""Runs NVIDIA's own converter, `modelopt.onnx.autocast`, where it is installed and asked for.

It is no dependency, because it brings its own versions of onnx and onnxruntime.
"""

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from prox24_export.errors import InputError, UnavailableError, first_line
from prox24_export.passes.graph.protocol import Feeds
from prox24_export.passes.precision.types import LowPrecisionName


def expect_autocast() -> None:
    """Expects that autocast is installed; this is called before any work is done.

    Raises:
        UnavailableError: modelopt, of which it is a part, is not installed.
    """
    if find_spec("modelopt") is None:
        raise UnavailableError(
            "autocast is part of NVIDIA's modelopt, which is not installed. Install it with: "
            "pip install 'prox24-export[modelopt]', or leave the choice of the converter out."
        )


def convert_by_autocast(source: Path, precision: LowPrecisionName, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """Converts a model with `convert_to_mixed_precision`. Inputs and outputs keep their types.

    Args:
        source: The float32 ONNX file.
        precision: The low type.
        feeds: Calibration batches; there may be none.

    Raises:
        UnavailableError: modelopt is not installed.
        InputError: modelopt cannot convert the model.
    """
    expect_autocast()
    from modelopt.onnx.autocast import convert_to_mixed_precision  # noqa: PLC0415 (an optional extra)

    with tempfile.TemporaryDirectory() as folder:
        for number, feed in enumerate(feeds):
            # NumPy's stub takes the names for its own options.
            np.savez(Path(folder) / f"{number:06}.npz", **feed)  # type: ignore[arg-type]
        try:
            model: onnx.ModelProto = convert_to_mixed_precision(
                onnx_path=str(source),
                low_precision_type=precision,
                keep_io_types=True,
                calibration_data=folder if feeds else None,
            )
        except Exception as error:
            raise InputError(
                f"modelopt's autocast cannot convert {source}: {first_line(error)} Leave the choice of converter out."
            ) from error
    return model
