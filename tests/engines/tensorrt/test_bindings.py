"""Our calls, and Polygraphy's on our path, against the real bindings of TensorRT 10 and 11.

The chain: the stand-in's names, values and signatures are the real ones (checked here); it refuses and records
everything else (checked in `test_standin.py`); and the whole path runs on it (here again, for the record).
"""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch

import prox24_export.engines.tensorrt.session as session_module
import prox24_export.passes.emit_engine.build as emit_module
from prox24_export.engines.tensorrt.cuda_device import CudaDevice
from prox24_export.engines.tensorrt.session import TrtSession
from prox24_export.passes.emit_engine.build import EmitEngines, EngineBuildError
from tests.engines.tensorrt.trt_bindings import (
    Bindings,
    Parameter,
    Signature,
    accepts,
    bindings,
    signatures,
    stand_in_signatures,
)
from tests.engines.tensorrt.trt_models import RANGE, model, rows, standin
from tests.engines.tensorrt.trt_standin import host_cuda

# The same expression must come to the same value, or the same class of error, in the bindings and in the stand-in.
BEHAVIOUR = (
    "trt.Dims([1, 2]) == (1, 2)",
    "(1, 2) == trt.Dims([1, 2])",
    "(1, 3) != trt.Dims([1, 2])",
    "trt.Dims([1]) == trt.Dims([1])",
    "tuple(trt.Dims([1, 2]))",
    "len(trt.Dims([1, 2]))",
    "str(trt.Dims([1, 2]))",
    "isinstance(trt.Dims([1]), tuple)",
    "1 << trt.BuilderFlag.TF32",
    "1 << int(trt.BuilderFlag.SPARSE_WEIGHTS)",
    "trt.BuilderFlag.TF32 == 6",
    "trt.BuilderFlag.SPARSE_WEIGHTS.name",
    "trt.Logger.VERBOSE == trt.ILogger.Severity.VERBOSE",
    "trt.Builder('logger')",
    "trt.Runtime(None, None)",
    "trt.OnnxParser('network')",
    "type(trt.IProfiler()).__name__",
    "trt.IProfiler(1)",
    "trt.BuilderFlag.FP16.name",
    "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED.name",
    "trt.QuantizationFlag.__name__",
    "trt.IHostMemory.__enter__ is not None",
)
EVALUATE = f"""
import json
def outcome(text):
    try:
        return repr(eval(text))
    except Exception as error:
        return type(error).__name__
print(json.dumps([outcome(text) for text in {BEHAVIOUR!r}]))
"""


@pytest.fixture(scope="module", params=[10, 11])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    return bindings(request.param, tmp_path_factory.mktemp("bindings"))


@pytest.fixture(scope="module")
def trt(real: Bindings) -> Iterator[ModuleType]:
    """The stand-in of the same version."""
    with standin(real.version) as module:
        yield module


def names_in(module: ModuleType) -> set[tuple[str, ...]]:
    """`trt.A.B` and `self._trt.A.B` in a module's source, as (A, B)."""
    assert module.__file__ is not None
    found = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value  # noqa: PLW2901 (down the chain)
        root = node.id if isinstance(node, ast.Name) else ""
        if root == "self" and chain[:1] == ["_trt"]:
            root, chain = "trt", chain[1:]
        if root == "trt" and chain:
            found.add(tuple(chain[:2]))
    return found


def test_every_name_of_our_sources_is_there(real: Bindings) -> None:
    names = names_in(emit_module) | names_in(session_module)
    names.discard(("__version__",))
    assert {("MemoryPoolType", "WORKSPACE"), ("ProfilingVerbosity", "DETAILED"), ("IProfiler",)} <= names
    assert len(names) >= 6
    assert [name for name in names if not real.has("", name[0])] == []
    assert [name for name in names if len(name) > 1 and not real.has(*name)] == []


def test_the_search_for_names_can_fail(real: Bindings) -> None:
    assert not real.has("", "IInt8Engine")
    assert not real.has("Builder", "build_sparse_engine")
    assert not real.has("BuilderFlag", "FORCE_SPARSITY")
    assert real.has("BuilderFlag", "FP16") == (real.major == 10)


def test_every_name_that_the_path_uses_is_there_and_what_it_misses_is_missing(
    real: Bindings, trt: ModuleType, tmp_path: Path
) -> None:
    """The path: three engines, a file that cannot be read, a session, a profiled session; all through Polygraphy."""
    trt.Trace.used.clear()
    trt.Trace.missing.clear()
    dense, sparse = model(tmp_path / "d.onnx", sparse=False), model(tmp_path / "s.onnx", sparse=True)
    built = (
        EmitEngines(RANGE, workspace=1 << 30, optimization_level=4)
        .call(dense=dense, sparse=sparse, folder=tmp_path)
        .engines
    )
    for graph in (True, False):
        opened = TrtSession("s", built[1].engine, {"x": rows()}, device=CudaDevice("cpu"), graph=graph)
        opened.outputs()
        opened.times(2)
        if not graph:
            opened.layer_times(2)
        opened.close()
    proto = onnx.load(sparse)
    proto.graph.node[0].op_type = "Einsum"
    onnx.save(proto, sparse)
    with pytest.raises(EngineBuildError):
        EmitEngines(RANGE).emit_one(sparse, "sparse", tmp_path)

    assert {
        *(("Builder", "build_serialized_network"), ("IBuilderConfig", "set_flag"), ("OnnxParser", "get_error")),
        *(("IExecutionContext", "execute_async_v3"), ("ITimingCache", "combine"), ("IProfiler", "__init__")),
        *(("EngineInspector", "get_engine_information"), ("Runtime", "deserialize_cuda_engine")),
    } <= trt.Trace.used
    assert len(trt.Trace.used) > 60
    assert sorted(entry for entry in trt.Trace.used if not real.has(*entry)) == []
    assert sorted(entry for entry in trt.Trace.missing if real.has(*entry)) == []


def test_the_stand_ins_methods_take_what_the_real_ones_take(real: Bindings, trt: ModuleType) -> None:
    compared = 0
    for kind in trt.CLASSES:
        for name, method in vars(kind).items():
            if not hasattr(method, "__wrapped__"):
                continue
            theirs = real.signatures(kind.__name__, name)
            for ours in stand_in_signatures(method.__wrapped__):
                assert any(accepts(one, ours) for one in theirs), (kind.__name__, name, ours, theirs)
                compared += 1
    assert compared > 45


def test_the_stand_ins_properties_are_properties_there_and_as_writable(real: Bindings, trt: ModuleType) -> None:
    compared = 0
    for kind in trt.CLASSES:
        for name, value in vars(kind).items():
            if isinstance(value, property):
                theirs = real.classes[kind.__name__][name]
                assert "property" in theirs, (kind.__name__, name)
                assert theirs["writable"] >= (value.fset is not None), (kind.__name__, name)
                compared += 1
    assert compared >= 20


def test_the_stand_ins_enumerations_have_the_real_values(real: Bindings, trt: ModuleType) -> None:
    for kind in trt.ENUMERATIONS:
        theirs = real.enumerations[kind.__name__]
        ours = {name: int(member) for name, member in kind.__members__.items()}
        assert ours.items() <= theirs.items(), kind.__name__
    assert {name: int(member) for name, member in trt.ILogger.Severity.__members__.items()} == json.loads(
        real.run("import json; print(json.dumps({n: int(s) for n, s in trt.ILogger.Severity.__members__.items()}))")
    )


def test_the_stand_ins_functions_take_what_the_real_ones_take(real: Bindings) -> None:
    (theirs,) = signatures(real.functions["init_libnvinfer_plugins"], "init_libnvinfer_plugins")
    assert [parameter.name for parameter in theirs.parameters] == ["logger", "namespace"]
    assert real.run("print(trt.init_libnvinfer_plugins(trt.Logger(), ''))").strip() == "False", "the stub's answer"


def test_the_stand_in_behaves_as_the_bindings_do(real: Bindings, tmp_path: Path) -> None:
    del tmp_path
    repository = Path(__file__).parents[3]
    code = f"import tensorrt as trt\n{EVALUATE}"
    environment = {
        "TRT_STANDIN_VERSION": real.version,
        "PYTHONPATH": f"{repository / 'tests/engines/tensorrt/trt_standin'}",
    }
    environment["PYTHONPATH"] += f":{repository}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    ours, theirs = json.loads(done.stdout), json.loads(real.run(EVALUATE))
    assert dict(zip(BEHAVIOUR, ours, strict=True)) == dict(zip(BEHAVIOUR, theirs, strict=True))


def test_without_the_libraries_the_bindings_raise_import_error(real: Bindings) -> None:
    environment = {**real.environment, "LD_LIBRARY_PATH": ""}
    code = "try:\n  import tensorrt_bindings\nexcept ImportError as error:\n  print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert f".so.{real.major}: cannot open shared object file" in done.stdout


def test_signatures_of_pybind11_are_read_and_compared() -> None:
    doc = """combine(*args, **kwargs)
    Overloaded function.

    1. combine(self: tensorrt_bindings.tensorrt.ITimingCache, other: tensorrt_bindings.tensorrt.ITimingCache, n: typing.SupportsInt = 0) -> bool

    2. combine(self: tensorrt_bindings.tensorrt.ITimingCache, names: collections.abc.Sequence[nvinfer1::Dims], s: tensorrt_bindings.tensorrt.ILogger.Severity = <Severity.WARNING: 2>) -> list[str]
    """  # noqa: E501 (as pybind11 writes it)
    one, two = signatures(doc, "combine")
    other = Parameter("other", "ITimingCache", False)
    assert one == Signature((other, Parameter("n", "SupportsInt", True)), "bool")
    assert two == Signature(
        (Parameter("names", "Sequence[Dims]", False), Parameter("s", "Severity", True)), "list[str]"
    )
    assert accepts(one, Signature((other,), "bool"))
    for wrong in (
        Signature((other,), "int"),
        Signature((other._replace(name="cache"),), "bool"),
        Signature((other._replace(kind="str"),), "bool"),
        Signature((other._replace(optional=True),), "bool"),
        Signature((), "bool"),
        Signature((*one.parameters, other), "bool"),
    ):
        assert not accepts(one, wrong)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (host_cuda.Stream.__init__, torch.cuda.Stream.__new__),
        (host_cuda.Stream.synchronize, torch.cuda.Stream.synchronize),
        (host_cuda.Event.__init__, torch.cuda.Event.__new__),
        (host_cuda.Event.record, torch.cuda.Event.record),
        (host_cuda.Event.elapsed_time, torch.cuda.Event.elapsed_time),
        (host_cuda.CUDAGraph.__init__, torch.cuda.CUDAGraph.__new__),
        (host_cuda.CUDAGraph.replay, torch.cuda.CUDAGraph.replay),
        (host_cuda.graph.__init__, torch.cuda.graph.__init__),
        (host_cuda.stream.__init__, torch.cuda.stream),
        (host_cuda.synchronize, torch.cuda.synchronize),
        (host_cuda.current_stream, torch.cuda.current_stream),
        (host_cuda.set_stream, torch.cuda.set_stream),
    ],
)
def test_the_stand_in_for_torch_cuda_has_its_signatures(ours: object, theirs: object) -> None:
    assert callable(ours)
    assert callable(theirs)
    mine, real = (
        {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("self", "cls") and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        for function in (ours, theirs)
    )
    assert mine.items() <= real.items()
