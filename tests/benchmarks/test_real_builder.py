"""What the benchmark of the real builder says of a file, and that a bad one fails it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_builder
from benchmarks.real_builder import PRECISIONS, Row
from tests.engines.tensorrt.real_builder.build import (
    VARIABLE,
    NoLibrariesError,
    RealBuilderError,
    RealEngine,
    find_libraries,
)
from tests.engines.tensorrt.real_builder.layers import RealLayer
from tests.graphs import model, normal, save

RESULTS = Path(real_builder.__file__).parent / "results" / "real_builder.json"
PRODUCT = "g (float16[N,8] x) => (float16[N,4] y) { [mul] y = MatMul(x, w) }"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    return save(model(PRODUCT, {"w": normal(8, 4, dtype=np.float16)}), tmp_path, "product.onnx")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["real_builder.py", *arguments])
    return real_builder.main()


def test_a_row_counts_what_the_builder_says(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = RealLayer("__mye1", "gemm", ("mul",), ("Int8",), ("Int8",), ("Int8",))
    said = (("W", "a warning"), ("W", "Make sure input x has Int64 binding."), ("E", "an\nerror"), ("V", "detail"))
    monkeypatch.setattr(real_builder, "build", lambda *_, **__: RealEngine(9, "1f", said, (layer,)))
    row = real_builder.check_file("a model", "int8", product, ["mul", "other"])
    assert (row.nodes, row.linear, row.named, row.int8, row.layers) == (1, 2, 1, 1, 1)
    assert (row.floats, row.leaves, row.whole) == (0, 1, 1)
    assert (row.notices, row.warnings, row.errors) == (1, 1, 1)
    told = ["error: an error", "warning: a warning", "no layer of the engine names other"]
    assert row.faults == [*told, "1 of 2 products read and store INT8"]
    assert "- a model, int8: no layer of the engine names other" in real_builder.tabulate([row])


def test_the_kernel_behind_a_product_may_write_what_the_file_quantises(
    product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(behind: tuple[str, ...], floats: tuple[str, ...] = ()) -> Row:
        own = RealLayer("a", "gemm", ("mul",), ("Int8",), ("Int8", "Float"), ("Float",))
        next_one = RealLayer("b", "kgen", ("mul",), ("Float",), (), behind)
        monkeypatch.setattr(real_builder, "build", lambda *_, **__: RealEngine(9, "1f", (), (own, next_one)))
        return real_builder.check_file("m", "int8", product, ["mul"], floats=floats)

    good, bad, allowed = check(("Int8",)), check(("Float",)), check(("Float",), ("mul",))
    assert (good.int8, good.leaves, good.whole, good.faults) == (1, 1, 0, [])
    assert bad.faults == ["INT8 leaves 0 of 1 products whose result is quantised"]
    assert (allowed.floats, allowed.faults) == (1, [])


def test_a_builder_that_fails_is_a_fault(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RealBuilderError("the real builder crashed on product.onnx: SIGSEGV.")

    monkeypatch.setattr(real_builder, "build", fail)
    assert real_builder.check_file("m", "fp16", product, ["mul"]).faults == [
        "the real builder crashed on product.onnx: SIGSEGV."
    ]


@pytest.mark.parametrize(("faults", "code"), [([], 0), (["no engine was built"], 1)])
def test_the_exit_code_tells_of_a_fault(
    faults: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("one", "fp16"), Row("two", "bf16", faults=faults)]
    monkeypatch.setattr(real_builder, "find_libraries", Path)
    monkeypatch.setattr(real_builder, "check_models", lambda *_: rows)
    assert run(monkeypatch) == code
    assert f"2 files, {len(faults)} wrong." in capsys.readouterr().out
    monkeypatch.setattr(real_builder, "check_models", lambda *_: [])
    assert run(monkeypatch) == 1, "nothing was checked"


def test_without_libraries_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert run(monkeypatch) == 2
    assert VARIABLE in capsys.readouterr().err


def test_a_planted_bad_file_fails_the_command(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        find_libraries()
    except NoLibrariesError as error:
        pytest.skip(str(error))
    good = real_builder.check_file("good", "fp16", product, ["mul"], "x:1x8,4x8,16x8")
    assert (good.faults, good.named, good.linear) == ([], 1, 1)
    save(model(PRODUCT.replace("MatMul", "Planted"), {"w": normal(8, 4)}), product.parent, product.name)
    bad = real_builder.check_file("bad", "fp16", product, ["mul"])
    assert bad.errors
    assert bad.named == 0
    monkeypatch.setattr(real_builder, "check_models", lambda *_: [good, bad])
    assert run(monkeypatch) == 1


def test_the_committed_table_holds_twelve_files_and_no_fault() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert real_builder.tabulate([Row(**row) for row in rows]) in RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert len(rows) >= 12
    assert {row["precision"] for row in rows} == set(PRECISIONS)
    assert all(row["named"] == row["linear"] > 0 for row in rows)
    assert not any(row["warnings"] or row["errors"] or row["faults"] for row in rows)
