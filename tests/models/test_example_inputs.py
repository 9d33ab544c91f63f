"""The inputs that a directory is traced with: what samples say, and what configurations say where there are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prox24_export.errors import InputError
from prox24_export.models.example_inputs import make_example_inputs
from tests.graphs import normal
from tests.models.transformers_models import built

Shapes = dict[str, tuple[str, list[int]]]


def made(family: str, folder: Path, example: Any, dtype: torch.dtype = torch.float32) -> Shapes:
    module: Any = built(family).to(dtype)
    inputs = make_example_inputs(module, folder, example)
    return {name: (str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in inputs.items()}


def ids(*shape: int, dtype: Any = np.int64) -> Any:
    return np.ones(shape, dtype)


def test_arrays_of_samples_become_inputs_in_the_order_of_the_arguments(tmp_path: Path) -> None:
    given = {
        "labels": ids(40),
        "token_type_ids": ids(40, 9, dtype=np.uint8),
        "attention_mask": ids(40, 9, dtype=bool),
        "input_ids": torch.ones((40, 9), dtype=torch.int32),
    }
    assert list(made("bert", tmp_path, given).items()) == [
        ("input_ids", ("int64", [3, 9])),
        ("attention_mask", ("bool", [3, 9])),
        ("token_type_ids", ("int64", [3, 9])),
    ]


@pytest.mark.parametrize("given", [normal(1, 3, 24, 20), normal(1, 3, 24, 20).astype(np.float64), ids(8, 3, 24, 20)])
def test_images_have_the_type_of_the_module_and_the_size_of_the_samples(given: Any, tmp_path: Path) -> None:
    expected = {"pixel_values": ("bfloat16", [3, 3, 24, 20])}
    for example in ({"pixel_values": given}, {"arr_0": given, "labels": ids(8)}, given, (torch.from_numpy(given),)):
        assert made("resnet", tmp_path, example, torch.bfloat16) == expected


def test_token_ids_are_integers_whatever_the_samples_hold(tmp_path: Path) -> None:
    given = {"input_ids": normal(4, 5), "attention_mask": normal(4, 5)}
    assert made("bert", tmp_path, given) == {
        "input_ids": ("int64", [3, 5]),
        "attention_mask": ("float32", [3, 5]),
    }


def test_arrays_of_different_lengths_stay_as_they_are(tmp_path: Path) -> None:
    given = {"input_ids": ids(2, 5), "pixel_values": normal(7, 3, 32, 32)}
    assert [shape for _, shape in made("clip_both", tmp_path, given).values()] == [[2, 5], [7, 3, 32, 32]]


def test_batches_without_names_are_in_the_order_of_the_needed_inputs(tmp_path: Path) -> None:
    given = [ids(2, 5), normal(2, 3, 32, 32)]
    assert [*made("clip_both", tmp_path, given)] == ["input_ids", "pixel_values"]
    with pytest.raises(InputError, match="batches of 3 arrays without names, and CLIPModel takes input_ids, pixel_val"):
        made("clip_both", tmp_path, [*given, ids(2, 5)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"input_ids": ids(2, 5), "use_cache": ids(2)},
            r"has arrays \['input_ids', 'use_cache'\]\. Expected inputs of Ber",
        ),
        ({"input_ids": ids(2, 5), "mask": ids(2)}, "which takes input_ids, attention_mask, token_type_ids, position_i"),
        ({"labels": ids(2)}, r"has arrays \[\]"),
        ({"input_ids": np.array(["a", "b"])}, "'input_ids' is <U1. Expected an array of numbers"),
        ({"input_ids": [[1, 2], [3]]}, "'input_ids' is no array"),
        ({"input_ids": np.broadcast_to(ids(1, 1), (3, 1 << 27))}, "at most 134,217,728 entries"),
    ],
)
def test_arrays_that_the_module_does_not_take_are_refused(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        made("bert", tmp_path, given)


def test_without_samples_sizes_come_from_the_configuration(tmp_path: Path) -> None:
    assert made("clip_both", tmp_path, None) == {
        "input_ids": ("int64", [3, 12]),
        "pixel_values": ("float32", [3, 3, 32, 32]),
    }
    assert made("speech", tmp_path, None) == {
        "input_features": ("float32", [3, 16, 64]),
        "decoder_input_ids": ("int64", [3, 6]),
    }
    assert made("sound", tmp_path, None) == {"input_values": ("float32", [3, 16_000])}
    assert made("t5", tmp_path, None) == {"input_ids": ("int64", [3, 12]), "decoder_input_ids": ("int64", [3, 6])}


def test_the_processor_says_what_the_configuration_does_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"how large 'pixel_values' of ResNet.* is\. Give --calibration: the size of"):
        made("resnet", tmp_path, None)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"crop_size": {"height": 40, "width": 48}, "size": {"shortest_edge": 64}}))
    assert made("resnet", tmp_path, None) == {"pixel_values": ("float32", [3, 3, 40, 48])}
    file.write_text(json.dumps({"size": 1 << 20}))
    with pytest.raises(InputError, match="Expected sizes of text, of images or of sound"):
        made("resnet", tmp_path, None)
