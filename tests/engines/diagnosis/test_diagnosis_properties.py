"""Any evidence: nothing is claimed without it."""

from hypothesis import given
from hypothesis import strategies as st

from prox24_export.engines.diagnosis.builder_log import LayerList, SparsityLog
from prox24_export.engines.diagnosis.diagnosis import diagnose
from prox24_export.engines.diagnosis.inspector import EngineLayer
from prox24_export.engines.diagnosis.pruned_layers import PrunedLayer
from prox24_export.engines.diagnosis.tactic_times import TacticTimes
from tests.engines.diagnosis.evidence import DENSE, SPARSE, states

NODES = ("a", "b", "c [odd]", "/d/MatMul")
TACTIC = st.sampled_from([SPARSE, DENSE, "", "__myl_ConvSpars_0x1"])
ENGINE = st.lists(
    st.builds(
        EngineLayer,
        st.sampled_from(["a", "b + a", "/d/MatMul_myl0_1", "{ForeignNode[a...b]}", "z"]),
        st.sampled_from(["gemm", "kgen", "CaskConvolution", "Myelin", "PluginV3", ""]),
        TACTIC,
        st.lists(st.sampled_from(NODES), max_size=2).map(tuple),
    ),
    max_size=4,
)
LISTS = st.none() | st.builds(
    LayerList,
    st.lists(st.sampled_from(["a", "a + b", "c [odd]", "{ForeignNode[a...b]}", "z"]), max_size=3).map(tuple),
    st.integers(0, 4),
    st.booleans(),
)
LOGS = st.none() | st.builds(
    SparsityLog,
    LISTS,
    LISTS,
    st.lists(
        st.builds(
            TacticTimes,
            st.sampled_from(["a", "b"]),
            dense_ms=st.none() | st.floats(0.001, 9),
            sparse_ms=st.none() | st.floats(0.001, 9),
        ),
        max_size=2,
    ).map(tuple),
    is_verbose=st.booleans(),
)
LAYERS = st.lists(
    st.builds(
        PrunedLayer,
        st.sampled_from(NODES),
        st.just("MatMul"),
        st.integers(4, 2000),
        st.integers(1, 2000),
        st.integers(4, 2000),
        st.sampled_from([1, 2]),
        st.sampled_from(["fp32", "fp16", "bf16", "int8", "fp8"]),
        st.none() | st.booleans(),
        st.booleans(),
    ),
    unique_by=lambda layer: layer.name,
    max_size=4,
)


@given(LAYERS, LOGS, st.none() | ENGINE, st.booleans())
def test_whatever_the_evidence_nothing_is_claimed_without_it(
    layers: list[PrunedLayer], log: SparsityLog | None, engine: list[EngineLayer] | None, allowed: bool
) -> None:
    diagnoses, _ = diagnose(layers, log, engine, allowed=allowed)
    assert [item.name for item in diagnoses] == [layer.name for layer in layers]
    for item in diagnoses:
        assert bool(item.reason) == (states(item) != (True, True, True))
        assert not (item.disagreement and item.chosen is not None)
        if log is None:
            assert item.eligible is None
        if item.chosen:
            named = log is not None and log.chosen is not None and log.chosen.names
            assert named or any(layer.is_sparse for layer in engine or ())
