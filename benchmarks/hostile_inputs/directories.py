"""Directories of transformers: configurations, headers of safetensors, indices and tokenizers that are wrong."""

import functools
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_inputs.case import Case, make_dice, run_in_copy
from hostile_inputs.commands import FAST
from hostile_inputs.json_changes import change_json

KIND = "directories"
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32,
    "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WORDS = ["[UNK]", "<s>", "</s>", *(f"w{number}" for number in range(29))]
EVIL = (
    ("auto_map", {"AutoModelForCausalLM": "code.Model"}), ("model_type", "gone"), ("architectures", ["os"]),
    ("architectures", "x"), ("architectures", ["BertModel"]), ("architectures", []), ("num_hidden_layers", 10**9),
    ("vocab_size", 10**12), ("hidden_size", -16), ("hidden_size", 2**40), ("attn_implementation", "a/b"),
    ("_attn_implementation_internal", "a/b"), ("attribute_map", {"z": "num_hidden_layers"}),
    ("quantization_config", {"quant_method": "bitsandbytes"}), ("torch_dtype", "float7"), ("dtype", "\x1b[2J"),
    ("rope_scaling", {"type": "x", "factor": -1}), ("hidden_act", "os.system"),
    ("configuration_files", ["config.5.0.0.json"]), ("use_timm_backbone", True),
    ("layer_types", ["full_attention"] * 10**5), ("num_key_value_heads", 0), ("num_attention_heads", 0),
    ("head_dim", 10**8), ("transformers_version", "99"), ("tie_word_embeddings", "maybe"), ("pad_token_id", 10**9),
    ("num_labels", 10**9), ("id2label", {str(n): "x" for n in range(5000)}), ("name_or_path", "\x1b]0;x\x07"),
    ("trust_remote_code", True), ("quantization_config", {"quant_method": "gptq", "bits": -1}),
)  # fmt: skip


def make_case(index: int) -> Case:
    """Makes one directory; most are only inspected."""
    dice = make_dice(KIND, index)
    family = dice.choice(("llama", "llama", "bert"))
    how = CHANGES[index % len(CHANGES)]
    change, said = how(family, dice)
    text = how is _tokenizer
    samples = ("--calibration", "words.txt", "--sequence", "8") if text else ()
    command = ("model", *samples, *FAST) if text or dice.random() < 0.06 else ("inspect", "model")

    def build(folder: Path) -> None:
        for name, content in make_files(family).items():
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / name).write_bytes(content)
        (folder / "words.txt").write_text(" ".join(WORDS * 20))
        change(folder / "model")

    return Case(KIND, index, f"{said[:200]} ({family})", command, build, may_be_valid=True)


@functools.cache
def make_files(family: str) -> dict[str, bytes]:
    """The files of a small valid directory, by name. It is made once, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        run_in_copy(lambda: _save_model(family, Path(name)))
        return {file.name: file.read_bytes() for file in sorted(Path(name).iterdir())}


def _save_model(family: str, folder: Path) -> None:
    import torch  # noqa: PLC0415 - only where it is made
    import transformers  # noqa: PLC0415
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415

    torch.manual_seed(0)
    kinds = {"llama": ("LlamaForCausalLM", "LlamaConfig"), "bert": ("BertForSequenceClassification", "BertConfig")}
    architecture, config = (getattr(transformers, kind) for kind in kinds[family])
    transformers.utils.logging.disable_progress_bar()
    architecture(config(**SMALL)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="</s>")  # noqa: S106
    fast.save_pretrained(folder)


Change = Callable[[Path], object]
Made = tuple[Change, str]


def _write(name: str, content: bytes, said: str) -> Made:
    return lambda folder: (folder / name).write_bytes(content), said


def _config(family: str, dice: random.Random) -> Made:
    new, said = change_json(make_files(family)["config.json"], dice)
    return _write("config.json", new, f"config.json: {said}")


def _evil(family: str, dice: random.Random) -> Made:
    config = json.loads(make_files(family)["config.json"])
    chosen = dice.sample(EVIL, dice.choice((1, 1, 2)))
    new = json.dumps(config | dict(chosen)).encode()
    return _write("config.json", new, f"config.json: {str(chosen)[:120]}")


def _header(family: str, dice: random.Random) -> Made:
    data = make_files(family)["model.safetensors"]
    (size,) = struct.unpack("<Q", data[:8])
    new, said = change_json(data[8 : 8 + size].strip(), dice)
    length = dice.choice((len(new), len(new), len(new), len(new) + 1, 2**62, 0))
    return _write(
        "model.safetensors",
        struct.pack("<Q", length) + new + data[8 + size :],
        f"safetensors: {said}, header of {length}",
    )


def _weights(family: str, dice: random.Random) -> Made:
    data = make_files(family)["model.safetensors"]
    at = dice.randrange(len(data))
    noise = dice.randbytes(dice.randrange(1, 300))
    new = dice.choice(
        (
            data[:at],
            data[:at] + noise + data[at:],
            noise,
            b"",
            data + noise,
            data[:8] + noise + data[8:],
            noise[:8] + data[8:],
        )
    )
    return _write("model.safetensors", new, f"safetensors torn at {at}, {len(new)} bytes")


def _index(family: str, dice: random.Random) -> Made:
    data = make_files(family)["model.safetensors"]
    (size,) = struct.unpack("<Q", data[:8])
    names = [name for name in json.loads(data[8 : 8 + size]) if name != "__metadata__"]
    shard = dice.choice(
        ("model-00001-of-00001.safetensors",) * 3
        + ("../x.safetensors", "/etc/hostname", "gone.safetensors", "\x1b", "m.bin")
    )
    text = json.dumps({"metadata": {"total_size": len(data)}, "weight_map": dict.fromkeys(names, shard)}).encode()
    new, said = change_json(text, dice) if shard.startswith("model-") else (text, f"shard {shard!r}")

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_bytes(new)

    return change, f"index: {said}"


def _tokenizer(family: str, dice: random.Random) -> Made:
    name = dice.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
    new, said = change_json(make_files(family)[name], dice)
    return _write(name, new, f"{name}: {said}")


def _generation(family: str, dice: random.Random) -> Made:
    new, said = change_json(make_files(family).get("generation_config.json", b'{"bos_token_id": 1}'), dice)
    return _write("generation_config.json", new, f"generation_config.json: {said}")


def _files(family: str, dice: random.Random) -> Made:
    """Files that are missing, are no files, or lead elsewhere."""
    name = dice.choice(
        ("config.json", "config.json", "model.safetensors", "model.safetensors", "generation_config.json")
    )
    kind = dice.choice(
        ("missing", "a folder", "a named pipe", "/dev/zero", "/etc/hostname", "gone", "a pickle", "an adapter", name)
    )
    marks = dice.randrange(50)

    def change(folder: Path) -> None:
        file = folder / name
        (folder / f"mark{marks}.txt").write_text("x")
        file.unlink(missing_ok=True)
        match kind:
            case "a folder":
                file.mkdir()
            case "a named pipe":
                os.mkfifo(file)
            case "a pickle":
                (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
            case "an adapter":
                (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
            case "missing":
                pass
            case _:
                file.symlink_to(kind)

    return change, f"{name}: {kind} ({family})"


def _mix(family: str, _dice: random.Random) -> Made:
    """The configuration of one model beside the weights of another."""
    other = json.loads(make_files({"llama": "bert", "bert": "llama"}[family])["config.json"])
    other["mark"] = _dice.randrange(10**6)
    if _dice.random() < 0.4:
        other = json.loads(make_files(family)["config.json"]) | {
            _dice.choice(list(SMALL)): _dice.choice((1, 3, 5, 24, 64, 4096))
        }
    return _write("config.json", json.dumps(other).encode(), f"another model's configuration ({other.get('mark', '')})")


def _nothing(family: str, dice: random.Random) -> Made:
    """A directory without the most important."""
    gone = dice.sample(sorted(make_files(family)), dice.randrange(1, len(make_files(family)) + 1))

    def change(folder: Path) -> None:
        for name in gone:
            (folder / name).unlink()
        if len(gone) > 4:
            shutil.copytree(folder, folder / "inner")

    return change, f"without {gone}"


CHANGES: tuple[Callable[[str, random.Random], Made], ...] = (
    _config, _header, _weights, _evil, _index, _tokenizer, _config, _files, _mix, _header, _generation, _nothing,
    _evil, _weights,
)  # fmt: skip
