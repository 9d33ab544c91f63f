"""Finds out whether TensorRT engines can be built and run on this machine, and what to install if they cannot.

Nothing is imported before it is asked for. Buffers, streams, events and graphs come from `torch.cuda`, so TensorRT is
used only with a torch that has CUDA.
"""

import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from prox24_export.errors import UnavailableError, first_line
from prox24_export.passes.emit_engine.versions import find_generation

INSTALL = "pip install 'prox24-export[tensorrt]'"
# A library of its own, with much the same interface. To open it as an engine, measure it on an RTX card first. Names
# of sparse kernels in 1.7.1 have float16 and bfloat16 with sm90 alone, and it refuses compute capability 9.0.
RTX_MODULE = "tensorrt_rtx"
RTX_REFUSED = (
    "; TensorRT for RTX is, but is not used: in version 1.7.1 it has sparse kernels for float16 and bfloat16 on Hopper "
    "alone, for which it builds no engine"
)
SPARSE_SINCE = (8, 0)  # compute capability of Ampere, the first with sparse matrix instructions


@dataclass(frozen=True)
class Availability:
    """Whether TensorRT can be used on this machine.

    Attributes:
        available: Whether engines can be built and run.
        version: Version of TensorRT; empty where it cannot be imported.
        device: Name of the GPU; empty where there is none.
        sparse: Whether the GPU has sparse matrix instructions.
        reason: Why engines cannot be built, in one sentence; empty where they can.
        remedy: What to do about it, in one sentence; empty where engines can be built.
    """

    available: bool
    version: str = ""
    device: str = ""
    sparse: bool = False
    reason: str = ""
    remedy: str = ""


def availability() -> Availability:
    """Imports TensorRT, Polygraphy and torch, and looks for a GPU. It raises nothing."""
    try:
        trt = import_module("tensorrt")
        version = str(trt.__version__)
        find_generation(version)
        import_module("polygraphy.backend.trt")
    except UnavailableError as error:
        return Availability(False, version, reason=f"TensorRT {version} is too old.", remedy=str(error))
    except ModuleNotFoundError as error:
        if error.name == "tensorrt" and find_spec(RTX_MODULE) is not None:
            reason = f"{error.name} is not installed{RTX_REFUSED}."
            return Availability(False, reason=reason, remedy=f"Install TensorRT itself: {INSTALL}.")
        return Availability(False, reason=f"{error.name} is not installed.", remedy=f"Install it: {INSTALL}.")
    except (ImportError, OSError) as error:  # the package is installed, but one of its libraries is missing
        remedy = f"Install it with its libraries: {INSTALL}, or put those of the same version on LD_LIBRARY_PATH."
        return Availability(False, reason=f"TensorRT cannot be imported: {first_line(error)}.", remedy=remedy)
    return _look_for_gpu(version)


def require_tensorrt() -> Availability:
    """Expects that engines can be built on this machine, and says what it found.

    Raises:
        UnavailableError: Engines cannot be built; the message says why and what to do.
    """
    found = availability()
    if not found.available:
        raise UnavailableError(f"--engine tensorrt cannot be used here: {found.reason} {found.remedy}")
    return found


def import_tensorrt() -> ModuleType:
    """Imports the module `tensorrt`.

    Raises:
        UnavailableError: It cannot be imported; the message says what to install.
    """
    try:
        return import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise UnavailableError(f"TensorRT cannot be imported: {first_line(error)}. Install it: {INSTALL}.") from error


def _look_for_gpu(version: str) -> Availability:
    torch = import_module("torch")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = bool(torch.cuda.is_available())
    if usable:
        capability = torch.cuda.get_device_capability()
        return Availability(True, version, str(torch.cuda.get_device_name()), sparse=capability >= SPARSE_SINCE)
    if torch.version.cuda is None:
        remedy = "Install torch with CUDA: pip install --force-reinstall torch, from the index that torch's site names."
        return Availability(False, version, reason=f"torch {torch.__version__} is built without CUDA.", remedy=remedy)
    why = first_line(said[0].message) if said and isinstance(said[0].message, Warning) else "torch sees none"
    remedy = "A machine with an NVIDIA GPU is needed; where there is one, install NVIDIA's driver and see nvidia-smi."
    return Availability(False, version, reason=f"no CUDA GPU can be used: {why}.", remedy=remedy)
