"""The user's own metric, through the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import command, network, samples
from tests.graphs import normal

METRICS = """\
import numpy as np

def spread(run, batches):
    print("not for stdout")
    outputs = [run(feeds)["y"] for feeds, labels in batches]
    return float(np.std(np.concatenate(outputs)))

def two(run, batches):
    return {"rows": sum(len(labels) for _, labels in batches), "names": len(run(batches[0][0]))}

def text(run, batches):
    return "high"

def fails(run, batches):
    raise RuntimeError("no reference")
"""


def prepared(folder: Path) -> None:
    network(folder)
    samples(folder)
    np.savez(folder / "labelled.npz", x=normal(12, 8), labels=np.zeros(12, np.int64))
    (folder / "mine.py").write_text(METRICS, encoding="utf-8")


@pytest.mark.parametrize(("name", "expected"), [("spread", {"spread"}), ("two", {"rows", "names"})])
def test_both_models_are_measured_and_reported(name: str, expected: set[str], tmp_path: Path) -> None:
    prepared(tmp_path)
    arguments = ("--calibration", "data.npz", "--evaluation", "labelled.npz", "--metric", f"mine:{name}", "-o", "out")
    outcome = command("net.onnx", *arguments, folder=tmp_path)
    assert outcome.code == 0, outcome
    assert "not for" not in outcome.stdout
    accuracy = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["accuracy"]
    assert set(accuracy["dense"]) == set(accuracy["sparse"]) == expected | {"top1"}
    if name == "spread":
        assert 0 < accuracy["sparse"]["spread"] != accuracy["dense"]["spread"]
    else:
        assert (accuracy["dense"]["rows"], accuracy["dense"]["names"]) == (12, 1)
    assert all(metric in outcome.stdout for metric in expected)


@pytest.mark.parametrize(
    ("name", "said"), [("text", "returned 'high'"), ("fails", "RuntimeError: no reference"), ("none", "no attribute")]
)
def test_a_metric_that_gives_no_number_is_refused(name: str, said: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    outcome = command("net.onnx", "--calibration", "data.npz", "--metric", f"mine:{name}", folder=tmp_path)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert not (tmp_path / "net-2to4").exists()
