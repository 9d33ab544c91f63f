"""A session whose weights are inputs: fed at every call, in place of constants, of which ONNX Runtime makes copies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from prox24_export.passes.front_onnx import runtime
from prox24_export.passes.graph.arrays import Array

WIDENED = frozenset(runtime.MAY_LACK_KERNELS.values())
BFLOAT16 = "bfloat16"  # which NumPy does not know, so that ONNX Runtime takes no array of it


def open_fed_session(
    model: onnx.ModelProto, fed: Mapping[str, Array], *, widens: bool, check: Callable[[], None] = lambda: None
) -> runtime.Session:
    """Opens a session for a model that lacks some tensors, which are fed at every call.

    Args:
        model: The model. It is changed: the tensors become inputs.
        fed: The tensors by name. They must stay as they are.
        widens: Whether bfloat16 and float64 are converted to float32 where they are read. Only one tensor at a time is
            in memory as float32.
        check: Called before every call of the session; what it raises is raised there.
    """
    casts, feeds = [], {}
    for name, array in fed.items():
        is_widened = widens and array.dtype.name in WIDENED
        given = f"{name} as stored" if is_widened else name
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(given, kind, array.shape))
        if is_widened:
            casts.append(onnx.helper.make_node("Cast", [given], [name], to=onnx.TensorProto.FLOAT))
        feeds[given] = _wrap(array)
    if casts:
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    session = runtime.open_session(model.SerializeToString(), has_float16=runtime.has_float16(model))
    return _FedSession(session, feeds, dict(fed), check)


class _FedSession:
    """A session and what it is fed at every call."""

    def __init__(
        self, session: runtime.Session, fed: Mapping[str, Any], held: Mapping[str, Array], check: Callable[[], None]
    ) -> None:
        """Takes what to feed by name, and the arrays behind it, which have to outlive the session."""
        self._session, self._fed, self._held, self._check = session, fed, held, check

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Any]:
        """See `runtime.Session`."""
        self._check()
        return self._session.run(output_names, {**self._fed, **input_feed})


def _wrap(array: Array) -> Any:
    """An array as a session takes it, without a copy."""
    if array.dtype.name != BFLOAT16:
        return array
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
