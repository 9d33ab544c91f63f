"""The table of the diagnosis, against golden files."""

from pathlib import Path

from rich.cells import cell_len

from prox24_export.engines.diagnosis import builder_log, inspector
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.diagnosis.tactic_times import TacticTimes
from tests.engines.diagnosis.evidence import DENSE, SPARSE, gemm, log_of, wide
from tests.engines.diagnosis.tables import format_table

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    assert max(map(cell_len, text.splitlines())) <= 100
    assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_golden_table_of_a_build_with_log_and_inspector() -> None:
    """Two convolutions and two Gemms, as log and inspector of 10.x have them; what neither shows is in a region."""
    region = "{ForeignNode[gemm1.weight...ONNXTRT_castHelper_9]}"
    nodes = "".join(f"[ONNX Layer: {node}]" for node in ("node_view", "node_linear", "node_relu_2", "node_linear_1"))
    text = (GOLDEN / "tactics_10.txt").read_text(encoding="utf-8")
    convolutions = ("node_conv2d + node_relu", "node_conv2d_1 + node_relu_1")
    lines = [
        "Registering layer: node_linear for ONNX node: node_linear",
        "Registering layer: node_linear_1 for ONNX node: node_linear",
        "Registering layer: node_linear_1_2 for ONNX node: node_linear_1",
        f"ForeignNode {region} metadata: {nodes}",
        *(line.split("[V] ", 1)[1] for line in text.splitlines()),
        " (foreignNode) (Sparsity) Found 1 layer(s) eligible to use sparse tactics: node_linear",
        " (foreignNode) (Sparsity) Chose 0 layer(s) using sparse tactics:",
        f"(Sparsity) Found 2 layer(s) eligible to use sparse tactics: {', '.join(convolutions)}",
        "(Sparsity) Chose 0 layer(s) using sparse tactics:",
    ]
    layers = [
        PrunedLayer("node_conv2d", "Conv", 800, 64, 32),
        PrunedLayer("node_conv2d_1", "Conv", 800, 64, 32),
        PrunedLayer("node_linear", "Gemm", 3136, 1024, 3136),
        PrunedLayer("node_linear_1", "Gemm", 1024, 16, 1024),
    ]
    engine = inspector.parse((GOLDEN / "inspector_10.json").read_text(encoding="utf-8"))
    diagnoses, disagreements = diagnose(layers, builder_log.parse_messages(lines), engine)
    assert disagreements == ()
    check("diagnosis_build", format_table(diagnoses))


def test_golden_table_of_every_kind_of_answer() -> None:
    long = "/model/encoder/layers.11/self_attn/out_proj/MatMul"
    layers = [
        wide("q_proj"),
        wide(long),
        wide("k_proj", n=128),
        wide("v_proj"),
        wide("fc1", k=1000, channels=1000),
        wide("fc2", precision="fp32"),
        wide("conv", op="Conv", k=1152, channels=128, group=2),
        wide("head", is_two_four=False),
        wide("swallowed"),
        wide("plugin"),
    ]
    times = (TacticTimes("k_proj", (), 0.0153, DENSE, 0.0181, SPARSE),)
    region = "{ForeignNode[embedding...swallowed]}"
    log = log_of(
        ["q_proj", f"{long} + add", "k_proj", "v_proj"],
        ["q_proj", "v_proj"],
        times=times,
        regions={region: ("embedding", "swallowed")},
    )
    engine = [
        gemm("q_proj_myl0_1", SPARSE, "q_proj"),
        gemm("out_proj_myl0_2", SPARSE, long, "add"),
        gemm("k_proj_myl0_3", DENSE, "k_proj"),
        gemm("v_proj_myl0_4", DENSE, "v_proj"),
        EngineLayer(region, "Myelin"),
        EngineLayer("plugin", "PluginV3", "", ("plugin",)),
    ]
    diagnoses, disagreements = diagnose(layers, log, engine)
    assert disagreements == ()
    check("diagnosis_kinds", format_table(diagnoses))


def test_golden_table_without_log_and_inspector() -> None:
    diagnoses, disagreements = diagnose([wide("q_proj"), wide("fc1", k=24, channels=24, n=12)], None, None)
    assert disagreements == ()
    check("diagnosis_nothing", format_table(diagnoses))
