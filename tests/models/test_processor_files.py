"""What is read of a processor's files, written by strangers."""

import json
from pathlib import Path
from typing import Any

import pytest

from prox24_export.errors import InputError
from prox24_export.models.processor_files import find_image_size, find_number, read_processor


@pytest.mark.parametrize(
    ("found", "size"),
    [
        ({}, None),
        ({"size": 24}, (24, 24)),
        ({"size": {"height": 20, "width": 24}}, (20, 24)),
        ({"size": {"shortest_edge": 28, "longest_edge": 99}}, (28, 28)),
        ({"size": 28, "crop_size": {"height": 24, "width": 20}}, (24, 20)),
        ({"size": 28, "crop_size": 24, "do_center_crop": False}, (28, 28)),
        ({"size": [20, 24]}, (20, 24)),
        ({"size": {"max_pixels": 9}}, None),
        ({"size": -4}, None),
        ({"size": True}, None),
        ({"size": "24"}, None),
    ],
)
def test_the_size_of_images_is_that_of_the_crop_or_else_of_the_resizing(found: Any, size: Any) -> None:
    assert find_image_size(found) == size


def test_entries_of_both_files_and_of_the_parts_in_them_are_found(tmp_path: Path) -> None:
    assert read_processor(tmp_path) == {}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000, "feature_size": 0}))
    whole = {"image_processor": {"size": 24}, "feature_extractor": {"nb_max_frames": 30}, "tokenizer": "x"}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    found = read_processor(tmp_path)
    assert find_image_size(found) == (24, 24)
    assert find_number(found, "nb_max_frames") == 30
    assert find_number(found, "sampling_rate") == 8000
    assert find_number(found, "feature_size") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"size": 1, "size": 2}', "the name 'size' stands twice"),
        ("[]", "holds a list"),
        ("{", "cannot be read"),
        ("[" * 100_000, "too many values within each other"),
        (" " * (17 << 20), "of at most 16 MB"),
    ],
)
def test_files_that_are_no_plain_objects_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_processor(tmp_path)
