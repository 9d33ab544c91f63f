"""What presets, options and a model's processor say of pictures, held against what their authors' code computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.preprocessing import PictureOptions, Preprocessing, choose_preprocessing
from prox24_export.data.samples import read_samples
from tests.data.sample_sources import one, refused

FIXED, FREE = one(("N", 3, 224, 224))[0], one(("N", 3, "H", "W"))[0]
CLIP = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 224},
}
VIT = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}


def chosen(processor: Any = None, value: Any = FIXED, **options: Any) -> Preprocessing:
    return choose_preprocessing(PictureOptions(**options), processor or {}, value, "nchw", "--calibration d")


@pytest.mark.parametrize(
    ("preset", "size", "resized", "made"),
    [
        ("imagenet", (500, 375), (341, 256), (224, 224)),
        ("imagenet", (256, 256), (256, 256), (224, 224)),
        ("clip", (375, 500), (224, 298), (224, 224)),
        ("siglip", (375, 500), (224, 224), (224, 224)),
        ("0-1", (375, 500), (375, 500), (375, 500)),
    ],
)
def test_presets_resize_and_cut(preset: Any, size: Any, resized: Any, made: Any) -> None:
    found = chosen(preset=preset)
    assert found.find_resized(size) == resized
    assert found.find_size(size) == made


def test_presets_follow_the_size_that_the_model_fixes() -> None:
    wide = one(("N", 3, 384, 384))[0]
    assert chosen(value=wide, preset="imagenet").resize == (439,)
    assert chosen(value=wide, preset="imagenet").crop == (384, 384)
    assert chosen(value=wide, preset="siglip").resize == (384, 384)
    assert chosen(value=FREE, preset="imagenet").crop == (224, 224)


def test_options_change_a_preset_one_by_one() -> None:
    found = chosen(preset="imagenet", resize="232", crop="200x180", mean=(0.5,))
    assert (found.resize, found.crop, found.mean) == ((232,), (200, 180), (0.5,))
    assert found.std == (0.229, 0.224, 0.225)


def test_a_processor_says_the_rest() -> None:
    found = chosen(CLIP)
    assert (found.resize, found.crop, found.filter) == ((224,), (224, 224), 3)
    assert found.mean == (0.48145466, 0.4578275, 0.40821073)
    assert chosen(VIT).resize == (224,)
    assert chosen(VIT).crop is None
    assert chosen({**VIT, "do_resize": False}).resize is None
    assert chosen({**VIT, "do_rescale": False}).scale == 1.0
    assert chosen({**VIT, "do_normalize": False}).std == (1.0,)
    assert chosen({**VIT, "size": {"shortest_edge": 224}, "crop_pct": 0.875}).resize == (256,)
    assert chosen(CLIP, preset="0-1").mean == (0.0,)


def test_a_border_of_an_odd_size_is_cut_as_the_authors_do() -> None:
    assert chosen(CLIP).find_corner((224, 299)) == (0, 37)  # transformers: 75 // 2
    assert chosen(preset="clip").find_corner((224, 299)) == (0, 37)
    assert chosen(preset="imagenet").find_corner((256, 331)) == (16, 54)  # torchvision: round(53.5)


@pytest.mark.parametrize(
    ("preset", "name", "size"),
    [("clip", "CLIPImageProcessorPil", (300, 251)), ("siglip", "SiglipImageProcessorPil", (300, 251))],
)
def test_arrays_are_those_of_transformers(preset: Any, name: str, size: tuple[int, int], tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    processor = getattr(pytest.importorskip("transformers"), name)()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image_module.fromarray(values).save(tmp_path / "a.png")
    wanted = processor(image_module.fromarray(values), return_tensors="np")["pixel_values"]
    found = json.loads(processor.to_json_string())
    for reader in (PictureReader(PictureOptions(preset=preset)), PictureReader(processor=lambda: found)):
        (sample,) = read_samples(tmp_path, one(("N", 3, 224, 224)), "--calibration", pictures=reader)
        np.testing.assert_allclose(sample.feeds["x"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            "--calibration d holds pictures, and nothing says how they become numbers. Give --preprocess",
        ),
        ({"resize": "224"}, "nothing says how they become numbers"),
        ({"mean": (0.5,)}, "--mean and --std belong together. Give both"),
        ({"std": (0.5,)}, "--mean and --std belong together. Give both"),
    ],
)
def test_what_is_not_enough_is_told(options: Any, said: str) -> None:
    with refused(said):
        chosen(**options)


def test_three_numbers_need_three_channels() -> None:
    with refused("--mean has 3 numbers, and the model takes 1 channels. Give one."):
        chosen(value=one(("N", 1, 28, 28))[0], mean=(0.1, 0.2, 0.3), std=(1.0,))


@pytest.mark.parametrize("broken", [{"image_mean": "half"}, {"image_std": [None]}, {"image_mean": [np.inf]}])
def test_a_processor_without_numbers_is_told(broken: Any) -> None:
    with refused("the model's preprocessor_config.json has no mean or deviation to read."):
        chosen(VIT | broken)
