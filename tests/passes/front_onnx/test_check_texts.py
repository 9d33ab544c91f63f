"""Names that are no text are refused: protobuf hands them out as bytes, which fit nothing."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.graph import OnnxGraph
from tests.graphs import model, opened, save

TEXT = """g (float[Naxis,8] xvalue) => (float[Naxis,8] yvalue) {
    yvalue = Flatten<axis = 1>(zvalue) zvalue = MatMul(xvalue, wvalue) }"""
NAMES = ("Naxis", "xvalue", "yvalue", "zvalue", "wvalue", "MatMul", "axis", "produced")


def product() -> onnx.ModelProto:
    proto = model(TEXT, {"wvalue": np.ones((8, 8), np.float32)})
    proto.producer_name = "produced"
    return proto


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_utf_8_is_refused(name: str, tmp_path: Path) -> None:
    path = save(product(), tmp_path)
    old = path.read_bytes()
    path.write_bytes(old.replace(name.encode(), b"\xff" * len(name)))
    assert path.read_bytes() != old
    with pytest.raises(InputError, match=r"dense.onnx has a \w+ in a \w+ that is no UTF-8 text: b'.*xff"):
        OnnxGraph(path)


def test_any_text_is_accepted(tmp_path: Path) -> None:
    proto = product()
    proto.graph.node[0].name = "Größe, 大小, \N{FLOPPY DISK}"
    assert opened(proto, tmp_path).nodes
