"""What a run warns of: inputs whose first axis is time, by the names of their axes."""

from pathlib import Path

import pytest

from prox24_export import export
from prox24_export.settings import Settings
from tests.graphs import model, normal, save


def warnings(shapes: str, folder: Path) -> list[str]:
    """What a run on random inputs says of the axes of its inputs."""
    proto = model(f"g ({shapes}) => (float[A,B,8] y) {{ y = MatMul(x, w) }}", {"w": normal(16, 8)})
    report = export(save(proto, folder), None, folder / "out", settings=Settings(method="magnitude"))
    return [warning for warning in report.warnings if warning.startswith("Input ")]


@pytest.mark.parametrize(("time", "batch"), [("T", "N"), ("time", "B"), ("seq_len", "batch"), ("Frames", "batch_size")])
def test_time_before_the_batch_is_told_with_the_way_out(time: str, batch: str, tmp_path: Path) -> None:
    (said,) = warnings(f"float[{time},{batch},16] x", tmp_path)
    assert said.startswith(
        f"Input x is [{time}, {batch}, 16]: its first axis was taken for the samples, and by its name"
    )
    assert "samples lie along axis 1. Export the model with the batch first" in said


@pytest.mark.parametrize(
    "shapes",
    [
        "float[batch,seq,16] x",
        "float[N,T,16] x",
        "float[T,D,16] x",  # no axis is a batch
        "float[D,N,16] x",
        "float[50,N,16] x",  # 50 rows are one sample
        "float[T,N,16] x, float[1,N,16] h",  # what is fed together is one sample
    ],
)
def test_other_names_raise_no_false_alarm(shapes: str, tmp_path: Path) -> None:
    assert warnings(shapes, tmp_path) == []
