"""External data: what ONNX Runtime reads is read, and everything else is refused before it is opened."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.external_data import list_external_files, load_tensors, read_payload
from prox24_export.passes.front_onnx.float32_copy import convert_to_float32
from prox24_export.passes.front_onnx.graph import OnnxGraph
from prox24_export.passes.onnx_to_fx.convert import ConvertToFx
from prox24_export.passes.precision.lower import LowerPrecision
from tests.graphs import is_two_four, linears, model, normal, rewritten, run, save

TEXT = "g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }"
WEIGHT = normal(8, 8)


def source(folder: Path, **entries: str) -> Path:
    """A model whose weight lies in `d.bin`, or where the entries say."""
    proto = model(TEXT, {})
    tensor = proto.graph.initializer.add(name="w", dims=[8, 8], data_type=1, data_location=1)
    for key, value in ({"location": "d.bin"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "d.bin").write_bytes(WEIGHT.tobytes())
    return save(proto, folder)


def link_hard(path: Path, folder: Path) -> Path:
    os.link(path.parent / "d.bin", folder / "store")
    return path


def link_inside(path: Path, folder: Path) -> Path:
    (path.parent / "d.bin").rename(path.parent / "other")
    (path.parent / "d.bin").symlink_to("other")
    assert folder.exists()
    return path


def link_as_a_cache_does(path: Path, folder: Path) -> Path:
    """Hugging Face's cache: `snapshots/REVISION/model.onnx` and its data are links into `blobs`."""
    (folder / "blobs").mkdir()
    for number, file in enumerate(sorted(path.parent.iterdir())):
        file.rename(folder / "blobs" / str(number))
        file.symlink_to(Path("..") / "blobs" / str(number))
    return path


@pytest.mark.parametrize("link", [link_hard, link_inside, link_as_a_cache_does])
def test_linked_data_are_read_by_every_pass_as_onnx_runtime_reads_them(
    link: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    path = link(source(tmp_path / "in"), tmp_path)
    feeds = {"x": normal(3, 8, seed=1)}
    expected = run(path, feeds)[0]
    graph = OnnxGraph(path)
    assert np.array_equal(graph.stored("w"), WEIGHT)
    assert np.array_equal(graph.runner()(feeds)[0], expected)
    segment = graph.compile(graph.nodes, feeds, ["y"], {})
    assert np.array_equal(segment(feeds)["y"], expected)
    (read,) = [tensor.raw_data for tensor in convert_to_float32(graph.proto, path).graph.initializer]
    assert read == WEIGHT.tobytes()
    (converted,) = ConvertToFx().call(graph=graph).module(torch.from_numpy(feeds["x"]))
    np.testing.assert_allclose(converted.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    pruned = rewritten(graph, tmp_path / "out")
    assert is_two_four(OnnxGraph(pruned).stored("w").T)
    lowered = LowerPrecision("fp16").call(source=path, target=tmp_path / "low" / "m.onnx", feeds=[feeds], linears=[])
    np.testing.assert_allclose(run(lowered.path, feeds)[0], expected, rtol=1e-2, atol=1e-2)


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no such file": ({"location": "gone.bin"}, "no such external data of tensor 'w'"),
    "empty": ({"location": ""}, "names no file"),
    "NUL": ({"location": "d\0.bin"}, "NUL byte"),
    "overlong": ({"location": "x" * 300}, "longer than names of files|cannot be found"),
    "absolute": ({"location": "/etc/passwd"}, "'/etc/passwd' of tensor 'w' .* absolute name"),
    "absolute elsewhere": ({"location": "C:\\weights"}, "absolute name"),
    "outside": ({"location": "../d.bin"}, "lie outside its folder"),
    "outside and back": ({"location": "../x/../../d.bin"}, "lie outside its folder"),
    "a folder": ({"location": "."}, "is a folder"),
    "negative offset": ({"offset": "-4"}, "offset '-4'"),
    "no number": ({"offset": "ten"}, "offset 'ten'"),
    "empty number": ({"length": ""}, "length ''"),
    "a number of 5000 digits": ({"length": "9" * 5000}, "length '9{40}'. Expected a number"),
    "underscore": ({"offset": "0_0"}, "offset '0_0'"),
    "behind the end": ({"offset": "4"}, "256 bytes from byte 4 .* holds 256"),
    "far behind the end": ({"offset": str(1 << 62)}, "the file holds 256"),
    "too short": ({"length": "128"}, "are 128 bytes. Expected 256, by its shape"),
    "too long": ({"length": "512"}, "are 512 bytes. Expected 256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_the_data_of_the_tensor_is_refused_by_name(case: str, tmp_path: Path) -> None:
    entries, words = REFUSED[case]
    path = source(tmp_path / "in", **entries)
    with pytest.raises(InputError, match=words) as caught:
        OnnxGraph(path)
    assert "tensor 'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = source(tmp_path)
    (tmp_path / "d.bin").unlink()
    os.mkfifo(tmp_path / "d.bin")
    with pytest.raises(InputError, match="is a named pipe"):
        OnnxGraph(path)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = source(tmp_path / "in")
    (tmp_path / "in" / "d.bin").rename(tmp_path / "d.bin")
    (tmp_path / "in" / "d.bin").symlink_to("../d.bin")
    with pytest.raises(InputError, match=r"tensor 'w' .* lie outside its folder"):
        OnnxGraph(path)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = source(tmp_path)
    (tmp_path / "d.bin").unlink()
    (tmp_path / "d.bin").symlink_to("d.bin")
    with pytest.raises(InputError, match="tensor 'w'"):
        OnnxGraph(path)


def test_only_the_bytes_of_the_tensor_are_read(tmp_path: Path) -> None:
    path = source(tmp_path, offset="4096")
    with (tmp_path / "d.bin").open("wb") as file:
        file.seek(4096)
        file.write(WEIGHT.tobytes())
        file.truncate(1 << 40)  # no room on any disk for so much: holes are not stored
    (tensor,) = OnnxGraph(path).proto.graph.initializer
    assert read_payload(tensor, path) == WEIGHT.tobytes()


def test_data_that_shrink_under_the_reader_are_told(tmp_path: Path) -> None:
    graph = OnnxGraph(source(tmp_path))
    (tmp_path / "d.bin").write_bytes(b"")
    with pytest.raises(InputError, match="the file holds 0"):
        load_tensors(graph.proto, graph.path)


def test_every_file_is_listed_once_wherever_its_tensor_stands(tmp_path: Path) -> None:
    """Initializers, attributes, bodies, functions and sparse tensors, in this order."""
    text = """g (float[n,8] x, bool c) => (float[n,8] y) { a = MatMul(x, u) b = Add(a, k) d = local.F(b)
        y = If(c) <then_branch = t () => (float[n,8] p) { p = Add(d, v) },
                   else_branch = e () => (float[n,8] q) { q = Identity(d) }> }"""
    proto = model(text, {"u": normal(8, 8), "v": normal(8)}, more=', "local" : 1')
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(normal(8), "k")))
    proto.functions.append(
        onnx.parser.parse_function('<domain: "local", opset_import: ["" : 17]> F (a) => (r) { r = Add(a, m) }')
    )
    proto.functions[0].node.insert(
        0, helper.make_node("Constant", [], ["m"], value=numpy_helper.from_array(normal(8), "m"))
    )
    body = next(a.g for a in proto.graph.node[-1].attribute if a.name == "then_branch")
    body.node.insert(0, helper.make_node("Constant", [], ["v2"], value=numpy_helper.from_array(normal(8), "v2")))
    places = numpy_helper.from_array(np.arange(4), "places")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(numpy_helper.from_array(normal(4), "s"), places, [8])
    )
    files = []
    for number, tensor in enumerate(
        [
            *proto.graph.initializer,
            proto.graph.sparse_initializer[0].values,
            proto.graph.node[0].attribute[0].t,
            body.node[0].attribute[0].t,
            proto.functions[0].node[0].attribute[0].t,
        ]
    ):
        name = f"{number // 2}.bin"
        files.append(tmp_path / name)
        (tmp_path / name).write_bytes(tensor.raw_data.ljust(256, b"\0"))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    path = save(proto, tmp_path)
    assert list_external_files(OnnxGraph(path).proto, path) == list(dict.fromkeys(files))
    assert linears(OnnxGraph(path))


SHAPES = {
    "negative": ([-8, 8], "has the shape .* no negative size"),
    "minus one": ([-1, 8], "no negative size"),
    "too many": ([1 << 40, 1 << 40], "which no tensor can have"),
    "more than is stored": ([1 << 40, 8], "fewer values are stored"),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("kind", ["initializer", "constant", "external", "text"])
def test_impossible_shapes_are_refused_before_anything_is_allocated(case: str, kind: str, tmp_path: Path) -> None:
    dims, words = SHAPES[case]
    proto = model("g (float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }")
    tensor = numpy_helper.from_array(np.array(["a"], object) if kind == "text" else WEIGHT, "w")
    tensor.dims[:] = dims
    if kind == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        proto.graph.initializer.append(tensor)
    if kind == "external":
        stored = proto.graph.initializer[0]
        (tmp_path / "d.bin").write_bytes(stored.raw_data)
        stored.ClearField("raw_data")
        stored.data_location = onnx.TensorProto.EXTERNAL
        stored.external_data.add(key="location", value="d.bin")
        words = words.replace("fewer values are stored", "the file holds 256")
    with pytest.raises(InputError, match=words) as caught:
        OnnxGraph(save(proto, tmp_path))
    assert "'w'" in str(caught.value)
