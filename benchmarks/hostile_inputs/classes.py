"""The classes of bad inputs, with how many of each are tried."""

from collections.abc import Callable
from dataclasses import dataclass

from hostile_inputs import (
    calibration,
    directories,
    external_data,
    model_bytes,
    model_fields,
    options,
    programs,
    system_faults,
)
from hostile_inputs.case import Case


@dataclass(frozen=True)
class Group:
    """A class of inputs.

    Attributes:
        make: Makes the case with a number.
        count: How many there are.
    """

    make: Callable[[int], Case]
    count: int


CLASSES = {
    model_bytes.KIND: Group(model_bytes.make_case, 720),
    model_fields.KIND: Group(model_fields.make_case, 900),
    external_data.KIND: Group(external_data.make_case, 400),
    calibration.KIND: Group(calibration.make_case, 620),
    directories.KIND: Group(directories.make_case, 500),
    programs.KIND: Group(programs.make_case, 460),
    options.KIND: Group(options.make_case, 660),
    system_faults.KIND: Group(system_faults.make_case, 360),
}


def load_libraries() -> None:
    """Imports what the command imports in the course of a run, so that its copies need not; runs none of it."""
    import onnxruntime  # noqa: F401, PLC0415 - slow, and only for whole runs
    import transformers  # noqa: F401, PLC0415
    from transformers.models.bert import modeling_bert  # noqa: F401, PLC0415
    from transformers.models.llama import modeling_llama  # noqa: F401, PLC0415

    import prox24_export.__main__  # noqa: PLC0415
    import prox24_export.bench  # noqa: PLC0415
    import prox24_export.models.torch_program  # noqa: PLC0415
    import prox24_export.models.transformers_directory  # noqa: PLC0415
    import prox24_export.pipeline  # noqa: PLC0415
    import prox24_export.report.compare  # noqa: PLC0415
    import prox24_export.report.files  # noqa: PLC0415
    import prox24_export.report.terminal  # noqa: F401, PLC0415
