"""Files before and after the conversion: external data, copies, refusals, and nothing left behind."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.precision.lower import LowerPrecision
from prox24_export.passes.precision.types import PRECISIONS
from prox24_export.passes.verify_pattern import PatternError
from tests.graphs import (
    BF16,
    linears,
    model,
    normal,
    opened,
    rewritten,
    save,
)
from tests.passes.precision.lowered import BF16_PASS, CLOSE, FP16, TWO, TWO_WEIGHTS, X, lower, types


def test_functions_are_inlined(tmp_path: Path) -> None:
    proto = model(
        "g (float[n,8] x) => (float[n,4] y) { a = local.F(x) y = MatMul(a, w) }",
        {"w": normal(8, 4)},
        more=', "local" : 1',
    )
    body = """<domain: "local", opset_import: ["" : 17]> F (a) => (r) { k = Constant<value = float {3.0}>() r =
        Mul(a, k) }"""
    proto.functions.append(onnx.parser.parse_function(body))
    lowered, graph = lower(proto, tmp_path, [X])
    assert lowered.kept_in_fp32 == {}
    assert not graph.proto.functions
    assert lowered.differences["y"] < CLOSE["fp16"]


@pytest.mark.parametrize("settings", [FP16, BF16_PASS])
def test_external_data_stay_external(settings: LowerPrecision, tmp_path: Path) -> None:
    weights = {"u": normal(8, 512), "v": normal(512, 4), "c": normal(512)}
    (tmp_path / "in").mkdir()
    onnx.save(
        model(TWO, weights), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="d.bin", size_threshold=0
    )
    target = tmp_path / "out" / "low.onnx"
    lowered = settings.call(source=tmp_path / "in" / "m.onnx", target=target, feeds=[X])
    assert sorted(file.name for file in target.parent.iterdir()) == ["low.onnx", "low.onnx.data"]
    assert types(OnnxGraph(target)) == dict.fromkeys("uvc", PRECISIONS[settings.precision].word)
    assert lowered.differences["y"] < CLOSE[settings.precision]
    again = settings.call(source=target, target=tmp_path / "again" / "copy.onnx", feeds=[X])
    assert not again.converted
    (tmp_path / "out" / "low.onnx.data").unlink()
    assert OnnxGraph(again.path).stored("u").dtype == PRECISIONS[settings.precision].dtype.numpy()


def test_a_model_above_the_limit_of_one_file_gets_external_data(tmp_path: Path) -> None:
    weights = {"u": normal(8, 512), "v": normal(512, 4), "c": normal(512)}
    path = save(model(TWO, weights), tmp_path)
    lowered = LowerPrecision(external_above=1000).call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert (tmp_path / "low.onnx.data").stat().st_size >= 2 * 8 * 512
    assert lowered.differences["y"] < CLOSE["fp16"]


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_a_model_that_is_low_already_is_copied_byte_by_byte(dtype: Any, tmp_path: Path) -> None:
    kind = "float16" if dtype is np.float16 else "bfloat16"
    proto = model(f"g ({kind}[n,8] x) => ({kind}[n,4] y) {{ y = MatMul(x, w) }}", {"w": normal(8, 4).astype(dtype)})
    graph = opened(proto, tmp_path)
    path = rewritten(graph, tmp_path / "sparse")
    lowered = FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[], linears=linears(graph))
    assert lowered.path.read_bytes() == path.read_bytes()
    assert not lowered.converted
    assert f"{kind} already" in lowered.notes[0]
    assert ("float16 was asked for" in lowered.notes[0]) == (kind == "bfloat16")
    assert len(lowered.verified) == 1
    with pytest.raises(PatternError, match="not 2:4"):
        FP16.call(source=graph.path, target=tmp_path / "dense_low.onnx", feeds=[], linears=linears(graph))


def test_a_model_is_never_its_own_target(tmp_path: Path) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="Expected another file"):
        FP16.call(source=path, target=tmp_path / "." / "dense.onnx", feeds=[X])
    assert path.read_bytes() == before


def test_feeds_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)
    with pytest.raises(InputError, match=r"cannot be run from node first on.*Expected calibration data that fit"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[{"x": normal(5, 7)}])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_sequences_are_refused(tmp_path: Path) -> None:
    text = """g (float[n,8] x) => (float[n,4] y) { s = SequenceConstruct(x, x) a = ConcatFromSequence<axis =
        0>(s) y = MatMul(a, w) }"""
    path = save(model(text, {"w": normal(8, 4)}), tmp_path)
    for feeds in ([], [X]):
        with pytest.raises(InputError, match="sequence"):
            FP16.call(source=path, target=tmp_path / "low.onnx", feeds=feeds)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(model(TWO, TWO_WEIGHTS), tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_ir.save", fail)
    with pytest.raises(OSError, match="No space"):
        FP16.call(source=path, target=tmp_path / "low.onnx", feeds=[X])
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]
