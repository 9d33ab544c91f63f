"""prox24-export: a trained model in, a verified 2:4-sparse one out, with the evidence."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prox24_export.pipeline import export, inspect, plan
    from prox24_export.settings import Settings

__all__ = ["Settings", "export", "inspect", "plan"]


def __getattr__(name: str) -> Any:
    """Loads the public names when they are first used, so that the command's help needs neither torch nor ONNX."""
    if name == "Settings":
        from prox24_export.settings import Settings  # noqa: PLC0415

        return Settings
    if name in __all__:
        from prox24_export import pipeline  # noqa: PLC0415

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
