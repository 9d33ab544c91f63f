"""Why a pruned layer is not eligible, or runs no sparse tactic, and what can be done about it."""

from prox24_export.engines.diagnosis.builder_log import SparsityLog
from prox24_export.engines.diagnosis.findings import Finding
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer

ReasonAndRemedy = tuple[str, str]
"""A reason, and its remedy, which is empty where none is known."""
TILE_K = {"fp16": 16, "bf16": 16, "int8": 32, "fp8": 32}  # entries along K of one sparse matrix instruction
TILE_N = 8
SMALL = 256  # TensorRT's developers: sparse kernels win from about this many channels on, in and out
ASK_VERBOSE = "build with a logger at VERBOSE (trtexec: --verbose)"


def explain_build(layer: PrunedLayer, *, allowed: bool) -> ReasonAndRemedy | None:
    """Finds what keeps every engine that is built this way from using a sparse tactic for a layer."""
    if not layer.is_two_four:
        return "its weight is not 2:4 in the file that was built", "verify the file after conversion; export it again"
    if not allowed:
        return "sparse tactics were not allowed in this build", "build with SPARSE_WEIGHTS (trtexec: --sparsity=enable)"
    if layer.precision == "fp32":
        return "it is computed in fp32: TensorRT documents sparse tactics for fp16 and int8", "build in fp16"
    if layer.group != 1:
        return f"grouped convolution (group = {layer.group}): TensorRT has no sparse kernel for it", ""
    return None


def explain_log(log: SparsityLog | None) -> ReasonAndRemedy:
    """Finds why the log does not tell whether a layer is eligible."""
    if log is None:
        return "no builder log was captured", ASK_VERBOSE
    if log.eligible is not None:
        return "the builder log's list of eligible layers is not complete", "give the log as it was written"
    if not log.is_verbose:
        return "the builder log says nothing of sparsity: it was not captured at VERBOSE", ASK_VERBOSE
    return (
        "the builder log says nothing of sparsity although it is verbose",
        "check that SPARSE_WEIGHTS was set and that the log is whole",
    )


def admit_unexplained(*, is_eligible: bool, chosen: bool | None) -> ReasonAndRemedy:
    """Says what is left to say where nothing explains a missing state."""
    if not is_eligible:
        return "TensorRT does not list it as eligible, and no rule that is known explains it", ""
    if chosen is None:
        return (
            "neither builder log nor inspector tells whether a sparse tactic was chosen",
            "build with detailed profiling verbosity and a logger at VERBOSE",
        )
    return (
        "the builder took a dense tactic; by how much it was faster is not in the log",
        "build without a timing cache and with a logger at VERBOSE to see the times",
    )


def explain_layer(layer: PrunedLayer, finding: Finding) -> ReasonAndRemedy | None:
    """Finds the surest explanation of a missing state by what is known of the layer and the engine, if there is one."""
    if finding.plugin is not None:
        kind = finding.plugin.kind
        return f"a plugin computes it ({kind}): TensorRT chooses no tactic for it", "build without the plugin"
    return (
        _explain_by_times(layer, finding)
        or _explain_by_alignment(layer)
        or _explain_by_region(finding)
        or _explain_by_output(layer, finding)
        or _explain_by_missing_times(finding)
        or _explain_by_size(layer)
    )


def _explain_by_region(finding: Finding) -> ReasonAndRemedy | None:
    if not finding.region or finding.eligible or finding.times is not None:
        return None
    return (
        f"a Myelin region swallowed it, and shows no product of its own: {finding.region}",
        "newer versions of TensorRT show what is inside; a profiler names the kernels",
    )


def _explain_by_missing_times(finding: Finding) -> ReasonAndRemedy | None:
    times = finding.times
    if times is None or times.dense_ms is None or times.sparse_ms is not None or not finding.eligible:
        return None
    return f"the builder timed dense tactics only (the fastest {times.dense_ms:.4g} ms): it has no sparse one here", ""


def _explain_by_times(layer: PrunedLayer, finding: Finding) -> ReasonAndRemedy | None:
    times = finding.times
    excess = None if times is None else times.sparse_excess
    if times is None or excess is None:
        return None
    figures = f"{times.sparse_ms:.4g} ms sparse, {times.dense_ms:.4g} ms dense"
    if excess > 0:
        remedy = "" if _explain_by_size(layer) is None else "expect a gain from 256 channels on, or with a larger batch"
        return f"the dense tactic was faster: the sparse one takes {100 * excess:.1f} % longer ({figures})", remedy
    return (
        f"its sparse tactic took {-100 * excess:.1f} % less time alone ({figures}), but with the conversions of format "
        "around it the plan is faster with a dense one"
    ), ""


def _explain_by_alignment(layer: PrunedLayer) -> ReasonAndRemedy | None:
    tile = TILE_K.get(layer.precision, 1)
    symbol = "K" if layer.channels == layer.k else "C_in"
    if layer.channels % tile:
        wanted = -(-layer.channels // tile) * tile
        return (
            f"{symbol} = {layer.channels} is not a multiple of {tile}, as sparse {layer.precision} instructions need",
            f"widen the layer to {symbol} = {wanted}",
        )
    if layer.n % TILE_N:
        return (
            f"N = {layer.n} is not a multiple of {TILE_N}",
            f"widen the layer to N = {-(-layer.n // TILE_N) * TILE_N}",
        )
    return None


def _explain_by_output(layer: PrunedLayer, finding: Finding) -> ReasonAndRemedy | None:
    if not layer.is_quantised:
        return None
    outputs = {kind for product in finding.products for kind in product.outputs if kind}
    leaves = bool(outputs) and not outputs & {"int8", "fp8"}
    if not leaves and layer.output_is_quantised is not False:
        return None
    kind = " and ".join(sorted(outputs)) if leaves else "float"
    return (
        f"its output is {kind}: sparse {layer.precision} kernels are chosen where the output stays {layer.precision}",
        "quantise its output too",
    )


def _explain_by_size(layer: PrunedLayer) -> ReasonAndRemedy | None:
    symbol = "K" if layer.channels == layer.k else "C_in"
    if min(layer.channels, layer.n) >= SMALL:
        return None
    return (
        f"small ({symbol} = {layer.channels}, N = {layer.n}): below {SMALL} the dense kernel is usually the faster one",
        "expect a gain from 256 channels on, or with a larger batch",
    )
