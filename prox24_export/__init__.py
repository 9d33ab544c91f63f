"""prox24-export: a trained model in, a verified 2:4-sparse one out, with the evidence."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prox24_export.errors import InputError, Prox24Error, UnavailableError
    from prox24_export.passes.graph.protocol import Linear, Skipped
    from prox24_export.pipeline import export, inspect, plan, sensitivity
    from prox24_export.results.budget import SensitivityReport
    from prox24_export.results.plan import Plan
    from prox24_export.results.report import Report
    from prox24_export.settings import Settings

    __version__: str

__all__ = [
    "InputError",
    "Linear",
    "Plan",
    "Prox24Error",
    "Report",
    "SensitivityReport",
    "Settings",
    "Skipped",
    "UnavailableError",
    "__version__",
    "export",
    "inspect",
    "plan",
    "sensitivity",
]

_MODULES = {
    "InputError": "errors",
    "Linear": "passes.graph.protocol",
    "Plan": "results.plan",
    "Prox24Error": "errors",
    "Report": "results.report",
    "SensitivityReport": "results.budget",
    "Settings": "settings",
    "Skipped": "passes.graph.protocol",
    "UnavailableError": "errors",
    "export": "pipeline",
    "inspect": "pipeline",
    "plan": "pipeline",
    "sensitivity": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that the command's help needs neither torch nor ONNX.

    Raises:
        AttributeError: The package has no such name.
    """
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - not needed to import the package

        return version("prox24-export")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
