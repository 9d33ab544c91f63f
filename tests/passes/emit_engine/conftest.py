"""The fixtures of the room that runs engines, for the pass that builds them."""

from tests.engines.tensorrt.conftest import built, trt

__all__ = ["built", "trt"]
