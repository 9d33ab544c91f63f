"""Hugging Face directories through the whole pipeline, built small and at random from their configurations."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch.export import ExportedProgram

from prox24_export import Settings, export, inspect
from prox24_export.errors import InputError, UnavailableError
from prox24_export.models import transformers_directory
from prox24_export.models.find_frontend import find_frontend
from prox24_export.models.transformers_directory import TransformersDirectory
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.front_torch.emit_onnx import OnnxMismatchError, verify_onnx
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.graph.protocol import Linear, TracedGraph
from prox24_export.passes.verify_pattern import PatternError
from prox24_export.solver.pattern import is_two_four
from tests.command import network
from tests.models.transformers_models import DECODER, FAMILIES, MOE, linear_modules, saved, transformers

EXPLAINED = ("tied to an embedding", "C_in = 3", "not a constant")
MIXTURES = {"mixtral", "qwen3_moe"}


PROGRAMS: dict[tuple[str, str], ExportedProgram] = {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces each configuration once in a process: that takes far longer than anything that is done with it here.

    That goes for models whose weights are read lazily. The programs of others hold weights.
    """
    really_load, really_trace = transformers_directory.load_lazily, transformers_directory.trace_module
    lazy: set[Path] = set()

    def load(path: Path) -> Any:
        module, read = really_load(path)
        if read is not None:
            lazy.add(path)
        return module, read

    def trace(module: Any, path: Path, example: Any = None) -> ExportedProgram:
        if path not in lazy or not isinstance(example, Mapping | None):
            return really_trace(module, path, example)
        fed = {name: (value.dtype, tuple(value.shape)) for name, value in (example or {}).items()}
        key = (path / "config.json").read_text(encoding="utf-8"), str(fed)
        if key not in PROGRAMS:
            PROGRAMS[key] = really_trace(module, path, example)
        return PROGRAMS[key]

    monkeypatch.setattr(transformers_directory, "load_lazily", load)
    monkeypatch.setattr(transformers_directory, "trace_module", trace)


@pytest.fixture
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens each directory once: tracing a model takes far longer than anything that is done with it here."""
    opened: dict[Path, TracedGraph] = {}
    really_open = TransformersDirectory.open

    def open_once(directory: TransformersDirectory) -> TracedGraph:
        if directory.path not in opened:
            opened[directory.path] = really_open(directory)
        return opened[directory.path]

    monkeypatch.setattr(TransformersDirectory, "open", open_once)


@pytest.mark.usefixtures("opened_once", "traced_once")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_module_is_found_or_explained_and_the_export_loads(family: str, tmp_path: Path) -> None:
    module = saved(family, tmp_path / "dense")
    found = inspect(tmp_path / "dense")
    assert linear_modules(module) <= {layer.name for layer in found}
    for layer in found:
        assert isinstance(layer, Linear) or any(word in layer.sentence for word in EXPLAINED), layer
    if family in MIXTURES:  # experts in one parameter are as many layers
        batched = {name for name, parameter in module.named_parameters() if parameter.ndim == 3}
        assert len(batched) == 4
        experts = {f"{name}[{expert}]" for name in batched for expert in range(4)}
        assert experts <= {layer.weight for layer in found if isinstance(layer, Linear)}
    report = export(tmp_path / "dense", out=tmp_path / "out", settings=Settings(samples=8))
    assert len(report.sparse_layers) == sum(isinstance(layer, Linear) for layer in found) > 0
    again = type(module).from_pretrained(tmp_path / "out" / "model")  # type: ignore[attr-defined]
    for layer in found:
        if isinstance(layer, Linear):
            weight, _, expert = layer.weight.removesuffix("]").partition("[")
            stored = again.get_parameter(weight).detach()[int(expert) if expert else ...]
            assert is_two_four(torch.from_numpy(np.ascontiguousarray(layer.layout.to_matrix(stored.numpy()))))
    changed = {layer.weight.partition("[")[0] for layer in found if isinstance(layer, Linear)}
    dense, sparse = module.state_dict(), again.state_dict()
    assert all(torch.equal(dense[name], sparse[name]) for name in dense if name not in changed)


def test_an_expert_that_no_token_reaches_stays_dense_and_is_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**DECODER, **MOE, num_local_experts=16)
    module = transformers.MixtralForCausalLM(config).eval()
    module.save_pretrained(tmp_path / "dense")
    tokens = np.random.default_rng(0).integers(0, 96, size=(1, 4))  # 4 tokens, 2 experts each: at most 8 of 16
    np.savez(tmp_path / "evaluation.npz", tokens)
    report = export(
        tmp_path / "dense", [{"input_ids": tokens}], tmp_path / "out", evaluation=tmp_path / "evaluation.npz"
    )
    again = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "out" / "model")
    rows = [layer for layer in report.layers if ".experts." in layer.name]
    dense = [layer for layer in rows if layer.state == "dense"]
    assert len(rows) == 2 * 2 * 16
    assert len(dense) >= 2 * 2 * 8
    assert all(layer.reason and "no token came to it" in layer.reason for layer in dense)
    for layer in rows:
        weight, _, expert = str(layer.weight).removesuffix("]").partition("[")
        before, after = (side.get_parameter(weight).detach()[int(expert)] for side in (module, again))
        assert torch.equal(before, after) == (layer.state == "dense")
        assert is_two_four(after) == (layer.state == "sparse")


@pytest.mark.usefixtures("traced_once")
def test_config_files_types_and_ties_stay(tmp_path: Path) -> None:
    saved("gemma2", tmp_path / "dense", torch.bfloat16)
    (tmp_path / "dense" / "tokenizer.json").write_text("{}", encoding="utf-8")
    config = (tmp_path / "dense" / "config.json").read_bytes()
    export(tmp_path / "dense", out=tmp_path / "out", settings=Settings(samples=8))
    out = tmp_path / "out" / "model"
    assert (out / "config.json").read_bytes() == config
    assert (out / "tokenizer.json").read_text(encoding="utf-8") == "{}"
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "dense", out))
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert not list((tmp_path / "dense").glob("report*"))


@pytest.mark.usefixtures("traced_once")
def test_a_language_model_is_measured_by_perplexity_of_each_row(tmp_path: Path) -> None:
    module = saved("llama", tmp_path / "dense")
    tokens = np.random.default_rng(0).integers(0, 96, size=(12, 10))
    np.savez(tmp_path / "calibration.npz", input_ids=tokens)
    np.savez(tmp_path / "evaluation.npz", tokens[:5])
    report = export(
        tmp_path / "dense", tmp_path / "calibration.npz", tmp_path / "out", evaluation=tmp_path / "evaluation.npz"
    )
    assert report.accuracy is not None
    sparse = type(module).from_pretrained(tmp_path / "out" / "model")  # type: ignore[attr-defined]
    for model, figures in ((module, report.accuracy.dense), (sparse, report.accuracy.sparse)):
        ids = torch.from_numpy(tokens[:5])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert figures["perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)
    assert report.accuracy.dense["perplexity"] != report.accuracy.sparse["perplexity"]
    assert "perplexity" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("family", ["llama", "vit"])
def test_the_onnx_file_is_the_pruned_model(family: str, tmp_path: Path) -> None:
    saved(family, tmp_path / "dense")
    report = export(tmp_path / "dense", out=tmp_path / "out", settings=Settings(samples=8, onnx=True))
    graph = OnnxGraph(tmp_path / "out" / "model.onnx")
    layers = FindLinears().call(graph=graph).linears
    assert sum(is_two_four(graph.weight(layer)) for layer in layers) == len(report.sparse_layers)
    assert all(None in (entry.shape or ())[:1] or isinstance((entry.shape or (1,))[0], str) for entry in graph.inputs)


@pytest.mark.usefixtures("traced_once")
def test_an_onnx_file_that_computes_something_else_is_noticed(tmp_path: Path) -> None:
    saved("bert", tmp_path / "dense")
    export(tmp_path / "dense", out=tmp_path / "out", settings=Settings(samples=8, onnx=True))
    file = tmp_path / "out" / "model.onnx"
    sparse = find_frontend(tmp_path / "out" / "model").open()
    linears = FindLinears().call(graph=sparse).linears
    feeds = {entry.name: np.ones((2, 12), entry.dtype) for entry in sparse.inputs}
    verify_onnx(OnnxGraph(file), sparse, linears, feeds)
    model = onnx.load(file)
    floats = (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    for bias in [tensor for tensor in floats if len(tensor.dims) == 1]:
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, file)
    with pytest.raises(OnnxMismatchError, match="differs from the torch model's by"):
        verify_onnx(OnnxGraph(file), sparse, linears, feeds)
    dense = find_frontend(tmp_path / "dense").open()
    with pytest.raises(PatternError, match="holds no 2:4 linear layer with the weight"):
        verify_onnx(OnnxGraph(file), dense, linears, feeds)


@pytest.mark.usefixtures("traced_once")
def test_the_onnx_route_prunes_the_same_layers_with_the_same_errors(tmp_path: Path) -> None:
    saved("llama", tmp_path / "dense")
    frontend = find_frontend(tmp_path / "dense")
    file = frontend.write_onnx(frontend.open(), tmp_path)
    np.savez(tmp_path / "data.npz", input_ids=np.random.default_rng(0).integers(0, 96, size=(80, 24)))
    errors = []
    for number, model in enumerate((tmp_path / "dense", file)):
        settings = Settings(permute="no")  # of orders that are as good, either may be found
        report = export(model, tmp_path / "data.npz", tmp_path / f"out{number}", settings=settings)
        errors.append([layer.relative_error for layer in report.sparse_layers])
    assert len(errors[0]) == 15
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_an_onnx_model_needs_no_onnx_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--onnx is for models that are not ONNX files"):
        export(network(tmp_path), out=tmp_path / "out", settings=Settings(onnx=True))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def of_a_future(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaOfTomorrow"]}), encoding="utf-8")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torn(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nonsense")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_weights, r"holds no \.safetensors file\. Save the model with save_pretrained"),
        (of_a_future, "names the architecture LlamaOfTomorrow, which the installed transformers does not have"),
        (
            without_config,
            r"holds no config\.json\. Expected an \.onnx file, a Hugging Face directory, a \.pt2",
        ),
        (torn, "Expected a safetensors file"),
    ],
)
def test_unsuitable_directories_are_refused_and_nothing_is_written(
    spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    saved("llama", tmp_path / "dense")
    spoil(tmp_path / "dense")
    with pytest.raises(InputError, match=said):
        export(tmp_path / "dense", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.pth"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="is a pickle, which can run any code when it is read"):
        inspect(tmp_path / name)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("llama", tmp_path / "dense")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'prox24-export\[transformers\]'"):
        inspect(tmp_path / "dense")


@pytest.mark.parametrize("fault", ["import no_such_module_at_all", "raise ImportError('a half is gone.')", "1 / 0"])
def test_a_broken_transformers_is_not_called_missing(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("llama", tmp_path / "dense")
    (tmp_path / "transformers.py").write_text(fault, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableError, match=r"transformers is installed and cannot be imported: [^.]+\. Install"):
        inspect(tmp_path / "dense")


def test_a_part_of_transformers_that_cannot_be_imported_is_named_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("llama", tmp_path / "dense")
    config = tmp_path / "dense" / "config.json"
    config.write_text(config.read_text("utf-8").replace("LlamaForCausalLM", "PlaceholderForCausalLM"), "utf-8")
    find = type(transformers).__getattr__

    def fail(self: object, name: str) -> Any:
        if name != "PlaceholderForCausalLM":
            return find(self, name)
        raise ModuleNotFoundError(f"Could not import module '{name}'.") from ImportError("tokenizers is too old.")

    monkeypatch.setattr(type(transformers), "__getattr__", fail)
    with pytest.raises(UnavailableError, match=r"which transformers cannot import: tokenizers is too old\."):
        inspect(tmp_path / "dense")


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("family", ["llama", "gemma2", "t5", "bert", "qwen3_moe"])
def test_a_directory_is_read_lazily_and_computes_what_transformers_does(family: str, tmp_path: Path) -> None:
    module = saved(family, tmp_path, torch.float32)
    graph = find_frontend(tmp_path).open()
    assert isinstance(graph, FxGraph)
    assert graph.read is not None or family == "qwen3_moe"  # experts are merged while transformers loads them
    feeds = {entry.name: np.random.default_rng(0).integers(0, 96, (2, 12)) for entry in graph.inputs}
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(array) for name, array in feeds.items()}, return_dict=True)
    np.testing.assert_allclose(graph.runner()(feeds)[0], expected[0].numpy(), atol=1e-5)


@pytest.fixture
def memory_starts_as_nan() -> Iterator[None]:
    """What nothing was written to is NaN, as torch fills it where algorithms have to be deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("memory_starts_as_nan")
def test_a_lazy_graph_holds_no_weight(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    graph = find_frontend(tmp_path).open()
    assert isinstance(graph, FxGraph)
    assert graph.read is not None
    linear = next(layer for layer in FindLinears().call(graph=graph).linears)
    weight = graph.weight(linear)
    stored = load_file(tmp_path / "model.safetensors")[linear.weight]
    assert torch.equal(weight, stored)
    assert graph.program.state_dict[linear.weight].isnan().all()  # memory that nothing was written to


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("option", ["calibration", "evaluation"])
def test_tokens_that_the_vocabulary_lacks_are_refused(option: str, tmp_path: Path) -> None:
    saved("llama", tmp_path / "dense")
    good, bad = ([{"input_ids": np.full((1, 6), token)} for _ in range(8)] for token in (5, 96))
    sources = {"calibration": good, "evaluation": good} | {option: bad}
    with pytest.raises(InputError, match=f"--{option}: 'input_ids' of sample 0 has values from 96 to 96"):
        export(tmp_path / "dense", sources["calibration"], tmp_path / "out", evaluation=sources["evaluation"])
