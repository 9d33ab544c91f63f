"""Exports the models of `strangers_models` by every way out of torch, and a perceptron of scikit-learn."""

import contextlib
import inspect
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from strangers_checks import Case
from strangers_models import FAMILIES, TOKENS, Family
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unknown>"  # a word of the tokenizers
SAMPLES = 56  # a fifth of which is set aside, and a fifth of the rest is held back: the least that is refined
DEFAULT, OLD = "torch.onnx.export", "dynamo=False"
PERCEPTRON = "scikit-learn MLP"
ZIPMAP = {"skl2onnx": {}, "skl2onnx, zipmap=False": {"zipmap": False}}


def list_cases() -> Iterator[tuple[str, str]]:
    """Yields family and way of every export."""
    for family in FAMILIES:
        for way in (DEFAULT, OLD, *family.ways):
            yield family.name, way
    if find_spec("skl2onnx") is not None:  # no dependency of the tests: pip install skl2onnx
        for way in ZIPMAP:
            yield PERCEPTRON, way


def make_case(family: str, way: str, folder: Path) -> Case | str:
    """Writes a model and its samples.

    Args:
        family: Its name.
        way: How it is exported.
        folder: Where everything goes.

    Returns:
        The files and what is in the torch model; the exporter's first sentence where it fails.
    """
    if family == PERCEPTRON:
        return _make_perceptron(way, folder)
    chosen = next(one for one in FAMILIES if one.name == family)
    with torch.random.fork_rng():
        module = chosen.build()
    arrays = chosen.samples(SAMPLES)
    takes = inspect.signature(module.forward).parameters
    ordered = [name for name in takes if name in arrays]
    feeds = {name: torch.from_numpy(arrays[name][: 1 if way == DEFAULT else 2]) for name in ordered}
    weights, folded = find_weights(module, feeds), find_folded(module, arrays)
    try:
        model = _export(chosen, module, feeds, way, folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the exporter's
        said = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
        return "the exporter fails: " + re.sub(r"\s+", " ", re.split(r"\n|(?<=[a-z\)])\. ", said)[0])[:200]
    if way == OLD:  # makes inputs of numbers that are arguments, such as logits_to_keep
        inputs = {value.name for value in onnx.load(model, load_external_data=False).graph.input}
        arrays |= {name: np.asarray(takes[name].default) for name in inputs - set(arrays)}
    samples = folder / "samples.npz"
    np.savez(samples, **arrays)
    return Case(family, way, model, samples, weights, folded & set(weights))


def _export(family: Family, module: nn.Module, feeds: dict[str, Tensor], way: str, folder: Path) -> Path:
    if way == "directory":
        return save_directory(module, feeds, folder / "model")
    path = folder / "model.onnx"
    names = list(feeds)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if way == DEFAULT:
            torch.onnx.export(module, (), path, kwargs=feeds, dynamo=True)
        else:
            axes = {name: {0: "batch"} for name in names}
            torch.onnx.export(module, (), path, kwargs=feeds, dynamo=False, input_names=names, dynamic_axes=axes)
    if family.finish is not None:
        family.finish(path)
    return path


def save_directory(module: nn.Module, feeds: Mapping[str, Tensor], folder: Path) -> Path:
    """Saves a module of transformers with what comes with one: a tokenizer, an image processor."""
    module.save_pretrained(folder)
    if "pixel_values" in feeds:
        height, width = feeds["pixel_values"].shape[-2:]
        size = {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}
        (folder / "preprocessor_config.json").write_text(json.dumps(size), "utf-8")
    if any(name.endswith("input_ids") for name in feeds):
        words = {UNKNOWN: 0} | {f"w{index}": index for index in range(1, TOKENS)}
        tokenizer = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN).save_pretrained(folder)
    return folder


def find_weights(module: nn.Module, feeds: dict[str, Tensor]) -> dict[str, int]:
    """Finds the weights of linear modules that the output depends on, with their numbers of entries.

    Args:
        module: The module.
        feeds: One batch.

    Returns:
        Number of entries by name of the weight; experts that are stored together count as one weight, and of a layer of
        an LSTM, which has two, one counts with 0 entries.
    """
    found: dict[str, nn.Parameter] = {}
    for place, part in module.named_modules():
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
        for name, parameter in part.named_parameters(recurse=False):
            is_weight = isinstance(part, kinds) and name == "weight"
            is_expert = type(part).__name__.endswith("Experts") and parameter.ndim == 3
            if is_weight or is_expert or (isinstance(part, nn.LSTM) and name.startswith("weight_ih")):
                found[f"{place}.{name}"] = parameter
        if place.endswith("parametrizations.weight"):  # of weight_norm: the direction
            found[f"{place}.original1"] = dict(part.named_parameters())["original1"]
    frozen = [parameter for parameter in found.values() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(requires_grad=True)
    with torch.enable_grad():
        total = sum(value.float().sum() for value in _list_tensors(module(**feeds)) if value.requires_grad)
        assert isinstance(total, Tensor)  # noqa: S101 - some output depends on a weight
        gradients = torch.autograd.grad(total, list(found.values()), allow_unused=True)
    for parameter in frozen:
        parameter.requires_grad_(requires_grad=False)
    used = zip(found.items(), gradients, strict=True)
    return {
        name: 0 if "weight_ih" in name else parameter.numel()
        for (name, parameter), gradient in used
        if gradient is not None
    }


def find_folded(module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]]) -> set[str]:
    """Finds the weights of modules that multiply the same for each of two samples: queries that are learnt, positions.

    Args:
        module: The module.
        arrays: At least two samples.
    """
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, given, name=name: seen.setdefault(name, []).extend(_list_tensors(given))
        )
        for name, part in module.named_modules()
    ]
    runs = []
    for index in range(2):
        for values in seen.values():
            values.clear()
        with torch.no_grad():
            module(**{name: torch.from_numpy(array[index : index + 1]) for name, array in arrays.items()})
        runs.append({name: list(values) for name, values in seen.items()})
    for hook in hooks:
        hook.remove()
    first, second = runs
    return {
        f"{name}.weight"
        for name, values in first.items()
        if values and all(torch.equal(one, other) for one, other in zip(values, second[name], strict=True))
    }


def _list_tensors(value: object) -> Iterator[Tensor]:
    """Yields every tensor in what a module returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _list_tensors(part)
    elif isinstance(value, dict):
        yield from _list_tensors(list(value.values()))


def _make_perceptron(way: str, folder: Path) -> Case | str:
    """Fits a perceptron to points in eight clusters, and exports it."""
    from skl2onnx import to_onnx  # noqa: PLC0415 - no dependency of the tests
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 - an extra

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 400)
    points = (rng.standard_normal((8, 32))[labels] + rng.standard_normal((400, 32))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged, which does not matter here
        model = MLPClassifier((64, 32), max_iter=30, random_state=0).fit(points, labels)
    path, samples = folder / "model.onnx", folder / "samples.npz"
    path.write_bytes(to_onnx(model, points[:1], options=ZIPMAP[way]).SerializeToString())
    np.savez(samples, X=points[:SAMPLES])
    return Case(PERCEPTRON, way, path, samples, {f"coefs_[{i}]": w.size for i, w in enumerate(model.coefs_)})
