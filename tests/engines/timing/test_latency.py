"""Latency: known ratios are found again, drift does not bias them, and what cannot be trusted is called invalid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prox24_export.engines.timing.agreement import TOLERANCE, describe_difference
from prox24_export.engines.timing.gpu_state import GpuState
from prox24_export.engines.timing.latency import UNKNOWN_CLOCKS, UNLOCKED, Procedure, Reference, measure_latency
from prox24_export.engines.timing.statistics import compare_times, find_percentile, judge_interval, summarise_times
from prox24_export.errors import Prox24Error
from prox24_export.passes.graph.arrays import Array
from prox24_export.results.engine import LatencyPoint
from tests.graphs import normal

SHAPES = {"x": (8, 64), "mask": (8,)}
HOW = Procedure(resolution_ms=0, resamples=400, duration_ms=200, warm_up_ms=20)
DENSE, SPARSE = {"y": normal(4, 3)}, {"y": normal(4, 3, seed=1)}
REFERENCE = Reference(DENSE, SPARSE, TOLERANCE["fp16"])


@dataclass
class Machine:
    """What both models run on: a clock that every inference moves on, and how slow it makes them at that time."""

    drift: Callable[[int], float] = lambda _: 1.0
    seed: int = 0
    inferences: int = 0
    order: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)


@dataclass
class Fake:
    """A model of a known time, with noise; outputs as given."""

    name: str
    machine: Machine
    milliseconds: float
    wanted: dict[str, Array]
    noise: float = 0.01
    closed: bool = False

    def outputs(self) -> dict[str, Array]:
        """As given."""
        return self.wanted

    def times(self, runs: int) -> list[float]:
        """Noise of one inference, and noise that the whole turn shares."""
        machine = self.machine
        shared = 1 + self.noise / 2 * machine.random.standard_normal()
        result = []
        for _ in range(runs):
            machine.inferences += 1
            slow = machine.drift(machine.inferences)
            result.append(self.milliseconds * slow * shared * (1 + self.noise * machine.random.standard_normal()))
        machine.order.append(self.name)
        return result

    def close(self) -> None:
        """Nothing is held."""


def pair(machine: Machine, dense: float = 2.0, sparse: float = 1.6, noise: float = 0.01) -> tuple[Fake, Fake]:
    return Fake("dense", machine, dense, DENSE, noise), Fake("sparse", machine, sparse, SPARSE, noise)


def point(machine: Machine | None = None, how: Procedure = HOW, **more: float) -> LatencyPoint:
    return measure_latency(*pair(machine or Machine(), **more), None, SHAPES, reference=REFERENCE, procedure=how)


def test_a_known_ratio_is_found_again() -> None:
    found = point()
    assert found.valid
    assert found.reasons == ()
    assert found.speedup.value == pytest.approx(1.25, rel=0.01)
    assert found.speedup.low < 1.25 < found.speedup.high
    assert found.speedup.high - found.speedup.low < 0.02
    assert found.speedup.verdict == "faster"
    assert found.batch == 8
    assert found.shapes == SHAPES
    assert found.flag_off is None
    assert found.flag_speedup is None
    assert found.dense.median == pytest.approx(2.0, rel=0.01)
    assert found.dense.throughput == pytest.approx(500, rel=0.01)


def test_the_other_way_round_it_is_slower_and_equal_models_are_told_from_neither() -> None:
    assert point(dense=1.0, sparse=1.2).speedup.verdict == "slower"
    verdicts = [point(Machine(seed=seed), dense=1.0, sparse=1.0).speedup.verdict for seed in range(20)]
    assert verdicts.count("no measurable difference") >= 17


def test_the_flag_has_a_ratio_of_its_own() -> None:
    machine = Machine()
    off = Fake("flag off", machine, 1.92, SPARSE)
    found = measure_latency(*pair(machine), off, SHAPES, reference=REFERENCE, procedure=HOW)
    assert found.flag_off is not None
    assert found.flag_speedup is not None
    assert found.flag_off.median == pytest.approx(1.92, rel=0.01)
    assert found.flag_speedup.value == pytest.approx(1.2, rel=0.01)
    assert found.speedup.value == pytest.approx(1.25, rel=0.01)


def test_the_same_times_give_the_same_point() -> None:
    assert point() == point()


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    hits, repeats, true = 0, 300, 1.25
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        rounds = [
            base * (1 + 0.005 * random.standard_normal((30, 1))) * (1 + 0.01 * random.standard_normal((30, 10)))
            for base in (true, 1.0)
        ]
        found = compare_times(*rounds, resamples=300, resolution=0, seed=seed)
        hits += found.low <= true <= found.high
    assert 0.90 <= hits / repeats <= 0.985


def test_runs_of_a_round_do_not_count_as_independent() -> None:
    """The control: as many single runs as there are, resampled one by one, claim an interval far too narrow."""
    random = np.random.default_rng(0)
    rounds = [1 + 0.02 * random.standard_normal((30, 1)) + 0.001 * random.standard_normal((30, 20)) for _ in "ab"]
    by_round = compare_times(*rounds, resamples=300, resolution=0, seed=0)
    by_run = compare_times(*(times.reshape(-1, 1) for times in rounds), resamples=300, resolution=0, seed=0)
    assert by_round.high - by_round.low > 2 * (by_run.high - by_run.low)


@pytest.mark.parametrize("drift", [lambda n: 1 + n / 1500, lambda n: 1.5 if n > 300 else 1.0])
def test_drift_that_hits_both_models_does_not_bias_the_ratio(drift: Callable[[int], float]) -> None:
    found = point(Machine(drift))
    assert found.speedup.value == pytest.approx(1.25, rel=0.02)
    assert found.speedup.low < 1.25 < found.speedup.high
    assert not found.valid  # but the drift itself is seen
    assert all("coefficient of variation" in reason for reason in found.reasons)


def test_without_turns_the_same_drift_would_bias_it() -> None:
    """The control: one model after the other."""
    dense, sparse = pair(Machine(lambda n: 1 + n / 1500))
    left, right = (np.array(model.times(300)) for model in (dense, sparse))
    assert abs(np.median(left) / np.median(right) / 1.25 - 1) > 0.1


def test_turns_rotate_through_every_order_equally_often() -> None:
    machine = Machine()
    off = Fake("off", machine, 1.7, SPARSE)
    measure_latency(*pair(machine), off, SHAPES, reference=REFERENCE, procedure=HOW)
    turns = machine.order[-3 * 30 :]
    rounds = [tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)]
    assert len(set(rounds)) == 6
    assert {rounds.count(order) for order in set(rounds)} == {5}


def test_duration_rounds_and_runs_bound_how_long_is_measured() -> None:
    quick = point(how=replace(HOW, duration_ms=1, least_rounds=10, turn_ms=3.2))
    assert quick.dense.runs == quick.sparse.runs == 10
    longer = point(how=replace(HOW, duration_ms=400, least_rounds=10, turn_ms=3.2))
    assert longer.sparse.runs * 1.6 == pytest.approx(400, rel=0.05)
    capped = point(how=replace(HOW, duration_ms=1e9, least_rounds=10, most_runs=100))
    assert capped.dense.runs == 100


def test_warm_up_is_not_recorded() -> None:
    machine = Machine(lambda n: 10.0 if n <= 4 else 1.0)
    found = point(machine, noise=0.001)
    assert found.valid
    assert found.dense.max < 3


def test_variation_above_the_limit_is_invalid_and_named() -> None:
    found = point(noise=0.05)
    assert not found.valid
    assert len(found.reasons) == 2
    assert found.reasons[0].startswith("dense: coefficient of variation 5.")
    assert found.reasons[0].endswith("%, more than 2.5 %")


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"y": np.where(np.arange(12).reshape(4, 3) == 5, np.nan, SPARSE["y"])}, "output y holds 1 NaN"),
        ({"y": np.where(np.arange(12).reshape(4, 3) == 5, np.inf, SPARSE["y"])}, "1 entries that are not finite"),
        ({"y": SPARSE["y"] * 1.05}, "output y differs by 5 % of its root mean square, more than 2 %"),
        ({"y": SPARSE["y"][:2]}, "output y has shape [2, 3], expected [4, 3]"),
        ({"z": SPARSE["y"]}, "output y is missing"),
        (DENSE, "output y differs by"),  # a pruned engine must compute the pruned model, not the dense one
    ],
)
def test_outputs_that_differ_make_it_invalid(spoilt: dict[str, Array], told: str) -> None:
    dense, sparse = pair(Machine())
    sparse.wanted = spoilt
    found = measure_latency(dense, sparse, None, SHAPES, reference=REFERENCE, procedure=HOW)
    assert not found.valid
    assert told in found.reasons[0]
    assert found.reasons[0].startswith("sparse: outputs differ from the same model in float32, before timing")


def test_outputs_that_go_wrong_while_it_is_timed_are_noticed() -> None:
    dense, sparse = pair(Machine())
    states: Iterator[dict[str, Array]] = iter([SPARSE, {"y": SPARSE["y"] * np.nan}])
    sparse.outputs = lambda: next(states)  # type: ignore[method-assign]
    found = measure_latency(dense, sparse, None, SHAPES, reference=REFERENCE, procedure=HOW)
    assert found.reasons == (
        "sparse: outputs differ from the same model in float32, after timing: output y holds 12 NaN",
    )


def test_the_gpu_is_watched() -> None:
    def watched(*states: GpuState) -> LatencyPoint:
        seen = iter([*states[:-1], *[states[-1]] * 100])
        return measure_latency(
            *pair(Machine()), None, SHAPES, reference=REFERENCE, procedure=HOW, watch=lambda: next(seen)
        )

    locked = GpuState("A GPU", "1", 1400, 1980, 0x2)
    assert watched(locked).warnings == ()
    free = replace(locked, mask=0)
    unlocked = watched(free, replace(free, sm_mhz=1410))
    assert unlocked.warnings == (UNLOCKED,)
    assert unlocked.valid
    assert watched(replace(free, sm_mhz=None)).warnings == (UNKNOWN_CLOCKS,)
    assert watched(replace(free, sm_mhz=1200), free).warnings == (
        UNLOCKED,
        "the GPU's clock was between 1200 and 1400 MHz",
    )
    hot = replace(locked, mask=0x2 | 0x20)
    throttled = watched(locked, hot, hot, locked)
    assert not throttled.valid
    assert throttled.reasons == ("the GPU was throttled while it was timed: software thermal slowdown",)


@pytest.mark.parametrize("wrong", [[], [1.0, 2.0], [0.0], [float("nan")], [-1.0]])
def test_an_engine_that_returns_no_times_ends_the_run(wrong: list[float]) -> None:
    dense, sparse = pair(Machine())
    sparse.times = lambda runs: wrong  # type: ignore[method-assign] # noqa: ARG005
    with pytest.raises(Prox24Error, match=r"sparse: expected 1 positive, finite times in milliseconds\. Got"):
        measure_latency(dense, sparse, None, SHAPES, reference=REFERENCE, procedure=HOW)


def test_percentiles_are_trtexecs() -> None:
    """By hand from its source: 1 − 90/100 in float32 is a little more than 0.1, 1 − 99/100 a little less than 0.01."""
    ascending = [float(value) for value in range(1, 101)]
    assert [find_percentile(ascending, per_cent) for per_cent in (0, 50, 90, 95, 99, 100)] == [1, 50, 90, 95, 100, 100]
    assert find_percentile([7.0], 90) == 7
    assert [find_percentile([1.0, 2.0, 3.0], per_cent) for per_cent in (0, 50, 90)] == [1, 2, 3]


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=200))
def test_a_distribution_is_ordered_and_made_of_observed_times(times: list[float]) -> None:
    found = summarise_times(times)
    assert found.min <= found.p90 <= found.p95 <= found.p99 <= found.max
    assert list(found.quantiles) == sorted(found.quantiles)
    assert set(found.quantiles) <= set(times)
    assert len(found.quantiles) == 101
    assert (found.quantiles[0], found.quantiles[100]) == (found.min, found.max) == (min(times), max(times))
    assert found.runs == len(times)
    assert found.throughput == pytest.approx(1000 / np.mean(times))
    assert found.variation == pytest.approx(np.std(times) / np.mean(times), abs=1e-9)


@pytest.mark.parametrize("times", [[], [1.0, float("nan")], [0.0], [float("inf")]])
def test_a_distribution_of_no_times_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times must be positive, finite milliseconds"):
        summarise_times(times)


def test_a_ratio_needs_as_many_rounds_of_both() -> None:
    with pytest.raises(ValueError, match="as many rounds, at least one"):
        compare_times(np.ones((2, 1)), np.ones((3, 1)), resamples=10, resolution=0, seed=0)


def test_no_time_is_known_better_than_the_timer_tells() -> None:
    """All dense times are 20.5 µs and all sparse ones 20.0: one tick of a timer with a resolution of half a µs."""
    dense, sparse = np.full((30, 10), 0.0205), np.full((30, 10), 0.02)
    coarse = compare_times(dense, sparse, resamples=50, resolution=0.0005, seed=0)
    assert coarse.verdict == "no measurable difference"
    assert compare_times(dense, sparse, resamples=50, resolution=0, seed=0).low == pytest.approx(1.025)


def test_verdicts_go_by_the_interval() -> None:
    assert judge_interval(1.01, 1.2) == "faster"
    assert judge_interval(0.8, 0.99) == "slower"
    assert (
        judge_interval(1.0, 1.2)
        == judge_interval(0.9, 1.0)
        == judge_interval(float("nan"), 2)
        == "no measurable difference"
    )


@given(st.floats(-0.5, 0.5), st.sampled_from(sorted(TOLERANCE)))
def test_agreement_is_a_matter_of_the_tolerance(change: float, precision: str) -> None:
    told = describe_difference({"y": DENSE["y"] * (1 + change)}, DENSE, TOLERANCE[precision])
    if abs(abs(change) - TOLERANCE[precision]) > 1e-5:  # float32 rounds the product
        assert bool(told) == (abs(change) > TOLERANCE[precision])


def test_one_wrong_entry_in_a_large_output_is_found() -> None:
    wanted = normal(100, 1000)
    found = wanted.copy()
    found[17, 17] = 3
    assert "has an entry that differs" in describe_difference({"y": found}, {"y": wanted}, TOLERANCE["fp16"])


def test_classes_zeros_infinities_and_empty_outputs_are_compared_by_their_own_rules() -> None:
    classes = np.arange(100)
    assert describe_difference({"y": classes + (classes == 5)}, {"y": classes}, 0.02) == ""
    assert "differs in 10 % of its entries" in describe_difference(
        {"y": classes + (classes < 10)}, {"y": classes}, 0.02
    )
    assert describe_difference({"y": np.full(3, 1e-3)}, {"y": np.zeros(3)}, 0.02) == ""
    assert "differs" in describe_difference({"y": np.ones(3)}, {"y": np.zeros(3)}, 0.02)
    masked = np.array([1.0, -np.inf])
    assert describe_difference({"y": masked}, {"y": masked}, 0.02) == ""
    assert "not finite" in describe_difference({"y": -masked}, {"y": masked}, 0.02)
    assert "NaN" in describe_difference({"y": np.array([np.nan])}, {"y": np.array([np.nan])}, 0.02)
    assert describe_difference({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, 0.02) == ""
