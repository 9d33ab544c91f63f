"""modelopt's converter: refused where it is missing, and verified as ours is."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.errors import UnavailableError
from prox24_export.passes.precision.check import PrecisionError
from prox24_export.passes.precision.lower import LowerPrecision
from tests.graphs import (
    linears,
    model,
    normal,
    save,
)
from tests.passes.precision.lowered import TWO, TWO_WEIGHTS, X, converted, with_cast


def test_autocast_is_refused_before_any_work_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prox24_export.passes.precision.autocast.find_spec", lambda _: None)
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    with pytest.raises(UnavailableError, match=r"pip install 'prox24-export\[modelopt\]'"):
        LowerPrecision(converter="autocast").call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def stand_in(monkeypatch: pytest.MonkeyPatch, write: Any) -> list[dict[str, Any]]:
    """modelopt with the one function that is used, whose signature is that of 0.47."""
    calls: list[dict[str, Any]] = []

    def convert_to_mixed_precision(  # noqa: PLR0917 (the signature is modelopt's)
        onnx_path: str,
        low_precision_type: str = "fp16",
        nodes_to_exclude: list[str] | None = None,
        op_types_to_exclude: list[str] | None = None,
        nodes_to_include: list[str] | None = None,
        op_types_to_include: list[str] | None = None,
        data_max: float = 512,
        init_max: float = 65504,
        keep_io_types: bool = False,
        calibration_data: str | None = None,
    ) -> onnx.ModelProto:
        del nodes_to_exclude, op_types_to_exclude, nodes_to_include, op_types_to_include, data_max, init_max
        data = [dict(np.load(file)) for file in sorted(Path(str(calibration_data)).iterdir())]
        calls.append({"type": low_precision_type, "keep": keep_io_types, "data": data})
        result: onnx.ModelProto = write(Path(onnx_path))
        return result

    names = ("modelopt", "modelopt.onnx", "modelopt.onnx.autocast")
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].convert_to_mixed_precision = convert_to_mixed_precision  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("prox24_export.passes.precision.autocast.find_spec", lambda _: True)
    return calls


def test_autocast_is_given_every_feed_and_its_file_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, graph = converted(tmp_path / "ours")
    path = tmp_path / "ours" / "sparse" / "model.onnx"
    calls = stand_in(monkeypatch, lambda _: onnx.load(graph.path))
    settings = LowerPrecision(converter="autocast")
    lowered = settings.call(
        source=path, target=tmp_path / "low.onnx", feeds=[X, {"x": normal(2, 8)}], linears=linears(source)
    )
    assert [(call["type"], call["keep"], len(call["data"])) for call in calls] == [("fp16", True, 2)]
    np.testing.assert_array_equal(calls[0]["data"][1]["x"], normal(2, 8))
    assert lowered.kept_in_fp32 == {}
    assert len(lowered.verified) == 2

    def runtime_cast(_: Path) -> onnx.ModelProto:
        proto = onnx.load(graph.path)
        with_cast(proto)
        return proto

    stand_in(monkeypatch, runtime_cast)
    with pytest.raises(PrecisionError, match="behind a Cast"):
        settings.call(source=path, target=tmp_path / "other.onnx", feeds=[X], linears=linears(source))
    assert not (tmp_path / "other.onnx").exists()
