"""Directories of strangers: no code in them runs, no size in them takes all memory, and no other file is copied."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from prox24_export import inspect
from prox24_export.data import text
from prox24_export.errors import InputError, UnavailableError
from prox24_export.models.model_configuration import MOST, read_configuration
from prox24_export.models.transformers_directory import TransformersDirectory
from tests.models.transformers_models import saved

CODE = "open('marker', 'w').close()\n"
MAP = {
    "AutoConfig": "planted.Planted",
    "AutoModelForCausalLM": "planted.Planted",
    "AutoTokenizer": ["planted.Planted", "planted.Planted"],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    saved("llama", folder)
    return folder


@pytest.fixture
def model(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with code beside it that writes a marker."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original, tmp_path / "model")
    for name in ("planted.py", "custom_generate/generate.py"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(CODE, encoding="utf-8")
    return tmp_path / "model"


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes), encoding="utf-8")


def test_code_beside_a_model_is_not_run(model: Path) -> None:
    change(model, auto_map=MAP, model_type="planted")
    assert inspect(model)
    change(model, architectures=["Planted"])
    with pytest.raises(InputError, match="names the architecture Planted"):
        inspect(model)
    (model / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": MAP, "tokenizer_class": "Planted"}), encoding="utf-8"
    )
    Path("text.txt").write_text("one two", encoding="utf-8")
    with pytest.raises(InputError, match=r"the tokenizer of .* cannot be loaded"):
        text.read_token_rows(Path("text.txt"), model, 4, None, "--calibration")
    assert not Path("marker").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["AutoTokenizer"]}, "names the architecture AutoTokenizer, which is no model"),
        ({"architectures": ["os"]}, "names the architecture os"),
        ({"architectures": {"a": 1}}, "names the architecture"),
        ({"hidden_size": 10**9}, r"describes a model of [\d,]+ weights"),
        ({"vocab_size": 10**9}, r"describes a model of [\d,]+ weights"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000"),
        ({"num_labels": 10**9}, "num_labels is 1,000,000,000"),
        ({"text_config": {"encoder_layers": 10**9}}, "encoder_layers is 1,000,000,000"),
        ({"intermediate_size": 10**30}, "intermediate_size is"),
        ({"attn_implementation": "somebody/kernel"}, "which is code from elsewhere"),
        ({"vision_config": {"auto_map": MAP}}, "has an auto_map for a part of the model"),
        ({"attn_implementation": {"text_config": "somebody/kernel"}}, "which is code from elsewhere"),
        ({"kernel_config": {"RMSNorm": "somebody/kernel:RMSNorm"}}, "which is code from elsewhere"),
        ({"_attn_implementation_internal": "eager"}, "has _attn_implementation_internal, by which"),
        ({"per_layer_config": [[{"_experts_implementation": "eager"}]]}, "has _experts_implementation, by which"),
        ({"configuration_files": ["config.5.0.0.json"]}, "has configuration_files, by which"),
        ({"text_config": {"attribute_map": {"zzz": "num_hidden_layers"}}}, "has attribute_map, by which"),
        ({"depth_coefficient": 1e9}, r"depth_coefficient is 1e\+09"),
        ({"num_hidden_layers": 1e4}, "num_hidden_layers is 10000, and its checkpoint has 21 tensors"),
        ({"depths": [2, [101]]}, "depths is 101"),
        ({"architectures": ["TimmWrapperForImageClassification"]}, "has timm make a part of the model"),
        ({"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "x"}}, "has timm make a part"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, "has timm make a part of the model"),
        ({"use_timm_backbone": True}, "has timm make a part of the model"),
        ({"architectures": ["DetrForObjectDetection"], "model_type": "detr"}, "has timm make a part of the model"),
        ({"backbone": "somebody/backbone"}, "names 'somebody/backbone' as backbone"),
    ],
)
def test_configurations_that_name_code_or_sizes_without_end_are_refused(
    changes: dict[str, Any], said: str, model: Path
) -> None:
    change(model, **changes)
    with pytest.raises(InputError, match=said):
        inspect(model)


def test_what_configurations_say_is_read(model: Path) -> None:
    known = {"_name_or_path": "somebody/model", "_attn_implementation_autoset": True, "attn_implementation": "eager"}
    floats = {"mask_value": -3.4e38, "residual_multiplier": 0.22, "time_step_limit": [0.0, math.inf]}
    counts = {"conv_kernel": [10, 3], "num_experts": 256, "max_window_layers": 28, "backbone_config": None}
    said = known | floats | counts
    change(model, **said)
    found = read_configuration(model, 96, 21)
    assert found | said == found


def test_an_adapter_is_no_model(model: Path) -> None:
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="Merge it into the model with merge_and_unload"):
        inspect(model)


@pytest.mark.parametrize("stands_in", [True, False])
def test_an_architecture_whose_library_is_missing_is_refused(
    stands_in: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(_self: object, _name: str) -> Any:
        if stands_in:
            return type("Placeholder", (), {"_backends": ["timm"]})
        raise ImportError("timm is missing.\nInstall it.")

    change(model, architectures=["Placeholder"])
    monkeypatch.setattr(type(transformers), "__getattr__", find)
    said = r"Placeholder, which (needs|transformers cannot import)[^\n]*: timm[^\n]*\.$"
    with pytest.raises(UnavailableError, match=said):
        inspect(model)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[]", "holds a list"), (b"{", "cannot be read"), (b'{"a": 1, "a": 2}', "twice"), (b"[" * 10**5, "too many")],
)
def test_what_is_no_configuration_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_configuration(tmp_path, 1)
    (tmp_path / "config.json").write_text(json.dumps({"num_labels": MOST + 1}), encoding="utf-8")
    assert read_configuration(tmp_path, MOST + 1) == {"num_labels": MOST + 1}  # as long as an axis of the checkpoint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_files_of_the_directory_are_copied(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    snapshot = cache / "snapshots" / "a"
    shutil.copytree(model, snapshot)
    (cache / "blobs").mkdir()
    shutil.move(snapshot / "generation_config.json", cache / "blobs" / "0")
    (snapshot / "generation_config.json").symlink_to("../../blobs/0")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (snapshot / "README.md").symlink_to(tmp_path / "secret")
    (snapshot / "gone").symlink_to("nowhere")
    (snapshot / "same").symlink_to("planted.py")
    os.mkfifo(snapshot / "pipe")
    directory = TransformersDirectory(snapshot)
    (tmp_path / "out").mkdir()
    out = directory.write(directory.open(), {}, tmp_path / "out")
    copied = {path.name for path in out.iterdir()}
    assert copied == {"config.json", "generation_config.json", "model.safetensors", "planted.py", "same"}
