"""Every reason why a layer is not sparse, from the code, with what to do about it."""

from collections.abc import Iterator, Mapping

from docs.generate.tables import render_table
from prox24_export.engines.diagnosis import reasons
from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.findings import Finding
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.diagnosis.tactic_times import TacticTimes
from prox24_export.passes.graph.protocol import Reason

REMEDIES: Mapping[Reason, str] = {
    Reason.GROUPED_CONV: "Nothing within the model: a convolution with `group` = 1 would be pruned, but computes more.",
    Reason.TRANSPOSED_CONV: "Where you can train again, a resize followed by a `Conv` is a form that is pruned.",
    Reason.DEFORMABLE_CONV: "Nothing within the model.",
    Reason.NOT_MULTIPLE_OF_FOUR: "Choose widths that are multiples of 4 when you design the model, or better of 16 "
    "(fp16 engines) or 32 (int8 engines). A first convolution that reads 1 or 3 channels has to stay dense.",
    Reason.NOT_CONSTANT: "Nothing where both operands are activations, as in attention. Where the weight is an input "
    "of the model, store it as an initializer.",
    Reason.COMPUTED: "Fold constants with one of these tools.",
    Reason.COMPUTED_IN_PROGRAM: "Call `remove_parametrizations` for each normalised weight before the module is traced "
    "or saved. What is computed in `forward` belongs into the parameter; an ONNX file of the model is folded here.",
    Reason.SPARSE_INITIALIZER: "Store the weight densely, as an initializer, before you prune.",
    Reason.NO_ACTIVATION: "Fold constants: the product is the same for every input.",
    Reason.BATCHED_WEIGHT: "Write it as one `MatMul` for each matrix.",
    Reason.VECTOR_WEIGHT: "Nothing: a product with a vector is no matrix product for which a sparse kernel exists.",
    Reason.WEIGHT_TYPE: "Store the weight as float32, float16, bfloat16 or float64.",
    Reason.EINSUM: "Write it as `MatMul` before you export, for example by `torch.nn.functional.linear`.",
    Reason.INTEGER_OPERATOR: "Prune the float model first, and quantise the result.",
    Reason.QUANTISED_WEIGHT: "Store it as int8 or uint8, with constant float32 scales, one or one for each slice of an "
    "axis, and a `DequantizeLinear` that reads it directly. Or prune the float model first, and quantise the result.",
    Reason.FUSED_OPERATOR: "Prune the model as it was exported, and let the runtime fuse the result.",
    Reason.RECURRENT: "Nothing within the model.",
    Reason.NO_BATCH_AXIS: "Export the model with a batch axis.",
    Reason.IN_SUBGRAPH: "Export without control flow: fix the condition, or unroll the loop.",
    Reason.IN_FUNCTION: "Inline functions first: `onnx.inliner.inline_local_functions(model)`.",
    Reason.READ_ELSEWHERE: "Give the other node a copy of the weight, if it may keep its dense values.",
    Reason.READ_IN_SUBGRAPH: "Give the subgraph a copy of the weight, if it may keep its dense values.",
    Reason.IS_GRAPH_OUTPUT: "Remove the weight from the model's outputs.",
    Reason.TIED_TO_EMBEDDING: "Store the weight of the linear layer as a copy of its own; the file then grows by it.",
    Reason.TWO_AXES: "Give each direction a copy of the weight.",
    Reason.NOT_REACHED: "Give calibration samples that reach it: more of them, or more varied ones. A layer whose "
    "result reaches no output can be removed from the model. One whose input is zero for every sample, as in the first "
    "decoder layer of DETR, computes its bias alone: nothing would be gained.",
    Reason.EXCLUDED: "Change `--include` or `--exclude`.",
}
ROOMY = PrunedLayer("layer", "MatMul", 1024, 1024, 1024)  # that no rule on layers speaks against
UNSEEN = Finding(None, None, "", (), None, "")
INT8 = PrunedLayer("layer", "MatMul", 1024, 1024, 1024, precision="int8", output_is_quantised=False)


def render_layer_reasons() -> str:
    """Why a layer stays dense in the file."""
    rows = [(f"`{reason.name}`", reason.value, REMEDIES[reason]) for reason in Reason]
    return render_table(("name", "what the report says", "what you can do"), rows)


def render_engine_reasons() -> str:
    """Why a pruned layer is not eligible, or runs no sparse tactic, by an example of each."""
    rows = [(said, remedy or "Nothing that is known.") for said, remedy in dict.fromkeys(engine_examples())]
    return render_table(("what the report says, with example figures", "what the report advises"), rows)


def engine_examples() -> Iterator[tuple[str, str]]:
    """Every reason that `reasons` knows, as it gives it for an example."""
    found = [
        reasons.explain_build(PrunedLayer("layer", "MatMul", 64, 64, 64, is_two_four=False), allowed=True),
        reasons.explain_build(ROOMY, allowed=False),
        reasons.explain_build(PrunedLayer("layer", "MatMul", 64, 64, 64, precision="fp32"), allowed=True),
        reasons.explain_build(PrunedLayer("layer", "Conv", 576, 64, 64, group=2), allowed=True),
        *(reasons.explain_layer(layer, finding) for layer, finding in _layers()),
        reasons.explain_log(None),
        reasons.explain_log(SparsityLog(LayerList(is_complete=False), None)),
        reasons.explain_log(SparsityLog(None, None)),
        reasons.explain_log(SparsityLog(None, None, is_verbose=True)),
        reasons.admit_unexplained(is_eligible=False, chosen=None),
        reasons.admit_unexplained(is_eligible=True, chosen=None),
        reasons.admit_unexplained(is_eligible=True, chosen=False),
    ]
    yield from (reason for reason in found if reason is not None)


def _layers() -> Iterator[tuple[PrunedLayer, Finding]]:
    """Layers and what is known of them, each an example of one reason."""
    plugin = EngineLayer("layer", kind="PluginV3")
    yield ROOMY, Finding(False, False, "", (plugin,), None, "")
    yield ROOMY, Finding(True, False, "layer", (), TacticTimes("layer", dense_ms=0.04, sparse_ms=0.05), "")
    yield ROOMY, Finding(True, False, "layer", (), TacticTimes("layer", dense_ms=0.05, sparse_ms=0.04), "")
    yield PrunedLayer("layer", "MatMul", 36, 64, 36), UNSEEN
    yield PrunedLayer("layer", "MatMul", 64, 10, 64), UNSEEN
    yield ROOMY, Finding(None, None, "", (), None, "{ForeignNode[layer...other]}")
    product = EngineLayer("layer", kind="gemm", outputs=("fp16",))
    yield INT8, Finding(True, False, "layer", (product,), None, "")
    yield INT8, UNSEEN
    yield ROOMY, Finding(True, False, "layer", (), TacticTimes("layer", dense_ms=0.04), "")
    yield PrunedLayer("layer", "MatMul", 64, 64, 64), UNSEEN
