"""Directories that are traced with what the samples hold: masks, images of any size, models with two inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prox24_export import Settings, export
from prox24_export.errors import InputError
from prox24_export.models.find_frontend import find_frontend
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from tests.graphs import normal
from tests.models.transformers_models import linear_modules, saved

QUICK: dict[str, Any] = {"method": "magnitude", "refine": "no"}


def ids(rows: int, length: int) -> Any:
    return np.random.default_rng(0).integers(3, 90, (rows, length))


def padded(rows: int, length: int) -> Any:
    mask = np.ones((rows, length), np.int64)
    mask[::2, length - 4 :] = 0
    mask[1::3, :2] = 0  # padding on the left
    return mask


def with_places(tokens: Any) -> Any:
    """Token ids with places for the 16 patches of an image."""
    tokens[:, 2:18] = 95
    return tokens


IMAGES = normal(4, 3, 32, 32)
TEXT = {"input_ids": ids(4, 10), "attention_mask": padded(4, 10)}
FED: dict[str, dict[str, Any]] = {
    "clip_both": TEXT | {"pixel_values": IMAGES},
    "speech": {"input_features": normal(4, 16, 64), "decoder_input_ids": ids(4, 5)},
    "llava": {"input_ids": with_places(ids(4, 24)), "pixel_values": IMAGES},
}


@pytest.mark.parametrize("family", FED)
def test_every_linear_module_is_found_and_computes_what_transformers_does(family: str, tmp_path: Path) -> None:
    module, feeds = saved(family, tmp_path), FED[family]
    graph = find_frontend(tmp_path, feeds).open()
    assert {entry.name for entry in graph.inputs} == feeds.keys()
    assert linear_modules(module) <= {layer.name for layer in FindLinears().call(graph=graph).layers}
    rows = 1 if family == "llava" else 4  # it makes the batch size a part of the program
    assert {entry.shape[0] for entry in graph.inputs if entry.shape} == {1 if family == "llava" else None}
    few = {name: array[:rows] for name, array in feeds.items()}
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(array) for name, array in few.items()}, return_dict=True)
    np.testing.assert_allclose(graph.runner()(few)[0], expected[0].numpy(), atol=1e-5)


def test_padding_does_not_count_and_the_mask_is_an_input_of_all_that_is_written(tmp_path: Path) -> None:
    module = saved("decoder", tmp_path / "dense")
    samples = {"attention_mask": padded(12, 10), "input_ids": ids(12, 10)}
    np.savez(tmp_path / "samples.npz", **samples)
    settings = Settings(onnx=True, **QUICK)
    report = export(
        tmp_path / "dense", tmp_path / "samples.npz", tmp_path / "out", evaluation=[samples], settings=settings
    )
    sparse = type(module).from_pretrained(tmp_path / "out" / "model")  # type: ignore[attr-defined]
    tokens, mask = (torch.from_numpy(samples[name]) for name in ("input_ids", "attention_mask"))
    known = mask.bool() & mask.roll(1, dims=1).bool()  # a token that follows padding is predicted from padding
    assert report.accuracy is not None
    for model, figures in ((module, report.accuracy.dense), (sparse, report.accuracy.sparse)):
        with torch.no_grad():
            loss = model(input_ids=tokens, attention_mask=mask, labels=tokens.where(known, -100)).loss
        assert figures["perplexity"] == pytest.approx(np.exp(float(loss)), rel=1e-4)
    written = OnnxGraph(tmp_path / "out" / "model.onnx")
    assert [entry.name for entry in written.inputs] == ["input_ids", "attention_mask"]
    assert not report.faults


def test_images_without_a_size_in_the_configuration_come_from_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = saved("resnet", tmp_path / "dense")
    text = (
        "import numpy as np\ndef batches():\n    for seed in range(8):\n        random = np.random.default_rng(seed)\n"
    )
    text += "        yield random.standard_normal((1, 3, 40, 24), np.float32)\n"
    (tmp_path / "photographs.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    report = export(tmp_path / "dense", "photographs:batches", tmp_path / "out", settings=Settings(**QUICK))
    assert {layer.name for layer in report.layers} == linear_modules(module)
    assert report.data is not None
    assert (report.data.calibration, report.data.fit + report.data.choice + report.data.report) == (
        "photographs:batches",
        8,
    )


def test_a_missing_input_is_named_together_with_those_that_are_there(tmp_path: Path) -> None:
    saved("speech", tmp_path)
    said = (
        r"with input_features float32 \[3, 16, 64\]: .*\. Expected decoder_input_ids beside these, by name in --calib"
    )
    with pytest.raises(InputError, match=said):
        find_frontend(tmp_path, {"input_features": normal(4, 16, 64)}).open()
