"""Verbose logs of a real NVIDIA builder: nothing in them is misread, and what they do not say is not made up.

TensorRT for RTX 1.7.1 wrote them, which the wheel onnxruntime-ep-nv-tensorrt-rtx-cu13 0.5.0 holds, on a machine without
a GPU, for compute capability 8.9 and with SPARSE_WEIGHTS off; `tests/engines/tensorrt/real_builder/` drives it.
`rtx_int8.txt` and `rtx_norm.txt` are whole logs: of the graph `QUANTISED` in `test_real_builder.py` there, and of its
`a root mean square norm` in float16. `rtx_mobilenet.txt` is of MobileNetV1 0.25 in float16, with the first and the last
lines of its lists.
"""

from pathlib import Path

import pytest

from prox24_export.engines.diagnosis import builder_log
from prox24_export.engines.diagnosis.builder_log import SparsityLog
from tests.engines.diagnosis.evidence import only, states, wide
from tests.engines.tensorrt.real_builder.layers import find_int8_uses, find_product, read_layers

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("int8", "norm", "mobilenet")


def read(name: str) -> str:
    return (GOLDEN / f"rtx_{name}.txt").read_text(encoding="utf-8")


def wrap(text: str, width: int) -> str:
    """As a terminal wraps it."""
    lines = text.split("\n")
    return "\n".join(line[start : start + width] for line in lines for start in range(0, max(1, len(line)), width))


def logs(name: str) -> list[SparsityLog]:
    text = read(name)
    messages = [line.partition("[TRT] ")[2] or line for line in text.split("\n")]
    return [builder_log.parse(text), builder_log.parse_messages(messages), builder_log.parse(wrap(text, 150))]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_log_says_nothing_of_sparsity_and_is_read_without_a_doubt(name: str) -> None:
    for log in logs(name):
        assert log.is_verbose
        assert (log.eligible, log.chosen) == (None, None)
        assert (log.times, log.problems, log.warnings) == ((), (), ())


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("int8", {"first", "second", "float"}),
        ("norm", {"a", "node_of_p", "node_of_m"}),
        ("mobilenet", {"conv26", "gap27", "conv27", "flat29"}),
    ],
)
def test_the_nodes_of_a_real_network_are_read(name: str, nodes: set[str]) -> None:
    for log in logs(name):
        assert {node: log.registered[node] for node in nodes} == {node: node for node in nodes}
        (inside,) = log.regions.values()
        assert nodes <= set(inside)


def test_the_regions_of_a_real_network_hold_every_node_once_and_by_its_name() -> None:
    log = builder_log.parse(read("mobilenet"))
    ((region, nodes),) = log.regions.items()
    assert region == "{ForeignNode[input_as_float16...logits_float16_as_float32]}"
    assert (nodes[0], nodes[-1]) == ("input_as_float16", "logits_float16_as_float32")
    assert [node for node in nodes if node.startswith("conv")] == [f"conv{number}" for number in range(28)]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_of_a_real_log_is_neither_eligible_nor_chosen_and_the_reason_is_the_log(index: int) -> None:
    diagnosis = only(wide("first"), logs("int8")[index], None)
    assert states(diagnosis) == (True, None, None)
    assert "builder log" in diagnosis.reason
    assert not diagnosis.disagreement


def test_the_layers_of_a_real_log_are_those_of_the_engine() -> None:
    layers = list(read_layers([read("int8")]))
    assert [layer.kind for layer in layers] == ["shape_call", "kgen", "gemm", "gemm", "gemm"]
    uses = find_int8_uses(layers, ["first", "second", "float", "absent"])
    assert [(use.reads, use.stores, use.writes) for use in uses.values()] == [
        (True, True, True),
        (True, True, False),
        (False, False, False),
        (False, False, False),
    ]
    assert [use.is_whole for use in uses.values()] == [True, False, False, False]


def test_a_product_is_found_by_its_metadata_where_its_layers_name_says_nothing() -> None:
    layers = list(read_layers([read("mobilenet")]))
    assert len(layers) == 3
    product = find_product(layers, "conv27")
    assert product is not None
    assert (product.name, product.kind) == ("__myl_FcAdd_myl0_30", "runtime_fusion")
    assert (product.reads, set(product.stores), product.writes) == (("Half",), {"Half"}, ("Half",))
    assert find_product(layers, "conv0") is None
