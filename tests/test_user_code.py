"""Code runs where the user names it as code, and nowhere else."""

import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prox24_export import user_code
from prox24_export.errors import InputError
from tests.command import expect_refusal, in_process, network, snapshot

CODE = """\
from pathlib import Path
Path("marker").write_text("")
def make(): return []
"""


class Evil:
    """Writes the marker when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, ("marker", "w")


@pytest.fixture(autouse=True)
def _planted(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "planted.py").write_text(CODE, encoding="utf-8")
    yield
    sys.modules.pop("planted", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "planted:make", "planted:make"),
        ("bench", "net.onnx", "net.onnx", "--timing-cache", "planted:make", "--inputs", "planted.py"),
        ("report", "planted:make"),
        ("net.onnx", "--baseline", "planted:make"),
        ("net.onnx", "--calibration", "planted.py"),
        ("net.onnx", "--calibration", "data.npz"),
        ("inspect", "pickle.onnx"),
        ("inspect", "pickle.pt2"),
        ("inspect", "pickle.PT2"),
        ("inspect", "planted.py"),
        ("inspect", "a\0b.onnx"),
    ],
    ids=lambda arguments: " ".join(arguments).replace("\0", "NUL"),
)
def test_code_given_as_something_else_is_not_run(arguments: tuple[str, ...], tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    for name in ("pickle.onnx", "pickle.pt2", "pickle.PT2", "data.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    before = snapshot(tmp_path)
    outcome = in_process(*arguments, folder=tmp_path, capture=capfd)
    expect_refusal(outcome, 2, before, tmp_path)


def test_code_given_as_code_is_run(tmp_path: Path, capfd: Any) -> None:
    network(tmp_path)
    outcome = in_process("net.onnx", "--calibration", "planted:make", folder=tmp_path, capture=capfd)
    assert "--calibration planted:make holds no sample" in outcome.stderr
    assert (tmp_path / "marker").is_file()


def test_what_is_refused_of_a_result_is_told_as_it_is() -> None:
    def refuse(_function: Any) -> None:
        raise InputError("too much")

    with pytest.raises(InputError, match=r"^too much$"):
        user_code.call_function("io:StringIO", "--metric", "counts", refuse)
    assert user_code.call_function("io:StringIO", "--metric", "counts", lambda make: make) is io.StringIO
