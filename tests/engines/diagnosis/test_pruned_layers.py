"""Which layers of an engine are looked for: every node of a sparse weight, and no dense one."""

import numpy as np

from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer, list_pruned_layers
from prox24_export.passes.graph.activations import Patches, Rows
from prox24_export.passes.graph.layout import Layout
from prox24_export.passes.graph.protocol import Linear, Use
from prox24_export.results.report import LayerReport


def test_every_node_of_a_shared_weight_is_a_layer_and_dense_ones_are_not() -> None:
    shared = Linear(
        "first",
        "MatMul",
        "w",
        "float32",
        Layout((64, 32)),
        64,
        32,
        (Use("first", "x", Rows()), Use("second", "y", Rows())),
    )
    patches = Patches((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    conv = Linear("conv", "Conv", "v", "float32", Layout((32, 16, 3, 3)), 144, 32, (Use("conv", "x", patches),))
    rows = [
        LayerReport("first", "MatMul", "w", 64, 32, 2048, 0.1, "sparse"),
        LayerReport("conv", "Conv", "v", 144, 32, 4608, 0.1, "sparse"),
        LayerReport("dense", "Gemm", "u", 3, 2, 6, 0.1, "dense", "too small"),
        LayerReport("alone", "Gemm", "t", 32, 8, 256, 0.1, "sparse"),
    ]
    found = list_pruned_layers(
        rows,
        [shared, conv],
        "fp16",
        overrides={"second": "fp32", "conv": "int8"},
        quantised_outputs={"conv": False},
        wrong={"first"},
    )
    assert found == (
        PrunedLayer("first", "MatMul", 64, 32, 64, is_two_four=False),
        PrunedLayer("second", "MatMul", 64, 32, 64, precision="fp32", is_two_four=False),
        PrunedLayer("conv", "Conv", 144, 32, 16, precision="int8", output_is_quantised=False),
        PrunedLayer("alone", "Gemm", 32, 8, 32),
    )
    assert np.prod(patches.kernel) * found[2].channels == found[2].k
