"""The proximal operator against an exhaustive search, its own algebra, and its contract."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prox24_export.passes.graph.arrays import Array
from prox24_export.solver.pattern import two_four_mask
from prox24_export.solver.prox import gradient_step, prox24, prox24_reference, splitting_step

Searched = dict[str, list[tuple[float, Array, Array]]]
Operator = Callable[[Tensor, float], Tensor]

OPERATORS = pytest.mark.parametrize("operator", [prox24, prox24_reference])
STRENGTHS = [1e-3, 1e-2, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 3.0, 10.0, 1e3]


def pair_sum(others: Array) -> Array:
    """The three products of two of three entries, summed."""
    total: Array = others[..., 0] * others[..., 1] + others[..., 2] * (others[..., 0] + others[..., 1])
    return total


def regulariser(w: Array) -> Array:
    size: Array = np.abs(w)
    total: Array = size[..., 0] * pair_sum(size[..., 1:]) + size[..., 1] * size[..., 2] * size[..., 3]
    return total


def objective(w: Array, z: Array, strength: float) -> Array:
    total: Array = 0.5 * ((w - z) ** 2).sum(axis=-1) + strength * regulariser(w)
    return total


def descend(w: Array, z: Array, strength: float, sweeps: int = 300) -> Array:
    """Exact minimisation over one signed entry at a time: from any start, downhill to a point no entry can improve."""
    w = w.copy()
    for _ in range(sweeps):
        for i in range(4):
            shrunk = np.abs(z[..., i]) - strength * pair_sum(np.abs(np.delete(w, i, axis=-1)))
            w[..., i] = np.sign(z[..., i]) * np.maximum(shrunk, 0)
    return w


def search(z: Array, strength: float) -> Array:
    """The lowest objective of each group that descent finds from all 16 supports of z and 24 random points."""
    supports = np.array([[(k >> i) & 1 for i in range(4)] for k in range(16)], dtype=float)[:, None]
    random = np.random.default_rng(0).random((24, len(z), 4))
    random[::2] *= np.minimum(1, 0.6 / np.maximum(strength * np.abs(z), 1e-30))  # where dense minima live
    starts = np.concatenate([supports * z, random * z])
    lowest: Array = objective(descend(starts, z, strength), z, strength).min(axis=0)
    return lowest


def samples(kind: str, count: int, strength: float) -> Array:
    """Groups of a kind; all but the gaussian ones at the scale where supports compete at that strength."""
    rng = np.random.default_rng([len(kind), round(1e3 * strength)])
    z = rng.normal(size=(count, 4))
    match kind:
        case "gaussian":
            return z
        case "ties":
            z = np.round(2 * z) / 2
        case "nearly equal":
            z = rng.choice([-1.2, 0.83, 0.9, 1.1], size=(count, 1)) * (
                1 + 0.03 * z * rng.integers(0, 2, size=(count, 1))
            )
        case "zeros":
            z *= rng.random((count, 4)) < 0.6
        case "lopsided":
            z *= 10 ** rng.uniform(-6, 0, size=(count, 4))
        case "dominated":  # one entry sets whether the tiny others survive
            z = rng.random((count, 4)) * 10 ** rng.uniform(-14, 0, size=(count, 4))
            z[:, 0] = 10 ** rng.uniform(-2.5, 0, size=count)
            z[:, 1] *= 1e-6
            z[:, 3] = z[:, 0] * (z[:, 1] + z[:, 2]) * rng.uniform(0.9, 1.1, size=count)
        case "tie of supports":  # built from minimisers with three non-zeros and w1² + w2² ≈ 1, as good as two
            angle = rng.uniform(0.5, np.pi / 4, size=count)
            a, b = np.cos(angle), np.sin(angle)
            c = b * rng.random(count)
            z = np.stack([a + b * c, b + a * c, c + a * b, 0.3 * c], axis=-1)
            z *= 1 + rng.choice([-1e-3, -1e-6, 0, 1e-6, 1e-3], size=(count, 1))
    return z / strength


KINDS = ["gaussian", "ties", "nearly equal", "zeros", "lopsided", "dominated", "tie of supports"]


@pytest.fixture(scope="module")
def searched() -> Searched:
    """By kind: (strength, groups, lowest objectives found)."""
    runs = {kind: [(0.8, samples(kind, 400, 0.8))] for kind in KINDS}
    runs["gaussian"] = [(strength, samples("gaussian", 100, strength)) for strength in STRENGTHS]
    return {kind: [(s, z, search(z, s)) for s, z in pairs] for kind, pairs in runs.items()}


@OPERATORS
@pytest.mark.parametrize("kind", KINDS)
def test_no_start_of_a_descent_leads_lower(operator: Operator, kind: str, searched: Searched) -> None:
    for strength, z, found in searched[kind]:
        reached = objective(operator(torch.from_numpy(z), strength).numpy(), z, strength)
        assert np.all(reached <= found * (1 + 1e-9))
        assert np.mean(found <= reached * (1 + 1e-6)) > 0.95, "the search itself is too weak to judge"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda z, _: np.where(two_four_mask(torch.from_numpy(z)).numpy(), z, 0), id="two non-zeros only"),
        pytest.param(lambda z, s: descend(z, z, s), id="descent from z"),
        pytest.param(lambda z, s: descend(0 * z, z, s), id="descent from 0"),
        pytest.param(lambda z, s: 0.999 * prox24(torch.from_numpy(z), s).numpy(), id="shrunk by a thousandth"),
    ],
)
def test_the_search_exposes_a_wrong_operator(wrong: Callable[[Array, float], Array], searched: Searched) -> None:
    for kind in ("gaussian", "ties", "tie of supports"):
        excess = [objective(wrong(z, s), z, s) / np.maximum(found, 1e-290) - 1 for s, z, found in searched[kind]]
        assert np.concatenate(excess).max() > 1e-6, kind


def test_no_random_point_is_lower_whatever_its_signs_and_order() -> None:
    rng = np.random.default_rng(3)
    for strength in (0.1, 0.4, 1.0):
        z = rng.normal(size=(50, 1, 4))
        w = prox24(torch.from_numpy(z), strength).numpy()
        near = w + rng.normal(size=(50, 2000, 4)) * 10 ** rng.uniform(-6, 0, size=(50, 2000, 1))
        far = rng.uniform(-1.2, 1.2, size=(50, 2000, 4)) * np.abs(z).max(axis=-1, keepdims=True)
        for points in (near, far):
            assert np.all(objective(points, z, strength) >= objective(w, z, strength) * (1 - 1e-12))


@OPERATORS
@pytest.mark.parametrize("kept", [3, 4])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_minimisers_it_was_built_from_come_back(operator: Operator, kept: int, scale: float) -> None:
    """`z = w + s·e₂(the others of w)` makes w stationary; where the objective is convex up to z, w is the minimiser."""
    rng = np.random.default_rng(4)
    w = np.sort(rng.random((4000, 4)), axis=-1)[:, ::-1] * 10 ** rng.uniform(-5, -0.6, size=(4000, 1))
    w[:, kept:] = 0
    z = np.stack([w[:, i] + pair_sum(np.delete(w, i, axis=-1)) for i in range(4)], axis=-1)
    z[:, kept:] *= rng.random((4000, 4 - kept))  # below what would let a zero entry rise
    convex = 2 * (z**2).sum(axis=-1) + z.sum(axis=-1) ** 2 < 1
    assert convex.mean() > 0.5
    w, z = scale * w[convex], scale * z[convex]
    back = operator(torch.from_numpy(z), 1 / scale).numpy()
    assert np.array_equal(back != 0, w != 0)
    assert np.all(np.abs(back - w) <= 3e-14 * z[:, :1])


@OPERATORS
def test_equal_minima_go_to_the_sparser_and_the_switch_is_sharp(operator: Operator) -> None:
    """At (1.1, 1, 0.98, 0) and strength 1, (0.8, 0.6, 0.5, 0) and (1.1, 1, 0, 0) are equally good."""
    group = torch.tensor([1.1, 1.0, 0.98, 0.0], dtype=torch.float64)
    below, above = operator(group, 1 - 1e-7), operator(group, 1 + 1e-7)
    assert torch.allclose(below, torch.tensor([0.8, 0.6, 0.5, 0.0], dtype=torch.float64), atol=1e-5)
    assert above.tolist() == [1.1, 1.0, 0.0, 0.0]


@OPERATORS
def test_ties_keep_the_lower_index(operator: Operator) -> None:
    ties = torch.tensor([[2.0, -2, 2, 2], [1, 2, 1, -1], [-1, 1, 1, 2], [1, 3, 2, -2]])
    kept = [[2.0, -2, 0, 0], [1, 2, 0, 0], [-1, 0, 0, 2], [0, 3, 2, 0]]
    assert operator(ties, 100.0).tolist() == kept
    survivors = operator(torch.tensor([0.9, 1.0, -1.0, 0.8], dtype=torch.float64), 0.2)
    assert (survivors != 0).all()
    assert survivors[1] == -survivors[2]


def assert_reference_agrees(z: Tensor, strength: float) -> None:
    kernel, reference = prox24(z, strength), prox24_reference(z, strength)
    scale = z.abs().view(-1, 2, 4).amax(dim=-1).repeat_interleave(4, dim=-1)
    assert ((kernel - reference).abs() <= 1e-10 * scale).all()
    assert torch.equal(kernel != 0, reference != 0)


@pytest.mark.parametrize("strength", [0.0, *STRENGTHS])
def test_kernel_and_reference_are_the_same_operator(strength: float) -> None:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    assert_reference_agrees(z, strength)
    assert_reference_agrees((4 * z).round() / 4, strength * 0.987)  # off the strengths at which supports tie exactly


magnitudes = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 0.25, 1e-3, 1e-8]), st.floats(0, 4), st.floats(1e-12, 1e3).map(lambda x: 1 / x)
)
entries = st.builds(lambda size, sign: sign * size, magnitudes, st.sampled_from([-1.0, 1.0]))
groups = st.lists(entries, min_size=4, max_size=4).map(lambda group: torch.tensor(group, dtype=torch.float64))
strengths = st.one_of(st.sampled_from([0.0, *STRENGTHS]), st.floats(-3, 3).map(lambda x: 10**x))
quick = settings(max_examples=60)


@quick
@given(groups, strengths)
def test_signs_are_kept_no_entry_grows_and_order_is_kept(z: Tensor, strength: float) -> None:
    w = prox24(z, strength)
    assert (w * z >= 0).all()
    assert (w.abs() <= z.abs()).all()
    assert not w[w == 0].signbit().any()
    ranked = z.abs().sort(descending=True, stable=True).indices
    assert (w.abs()[ranked].diff() <= 0).all()


@quick
@given(groups, strengths, st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4), st.permutations(range(4)))
def test_signs_and_order_pass_through(z: Tensor, strength: float, signs: list[float], order: list[int]) -> None:
    flips = torch.tensor(signs, dtype=torch.float64)
    w = prox24(z, strength)
    assert torch.equal(prox24(flips * z, strength), flips * w)
    moved = prox24(z[order], strength)
    if len(set(z.abs().tolist())) == 4:
        assert torch.equal(moved, w[order])
    assert torch.equal(moved.abs().sort().values, w.abs().sort().values)  # whichever of equals is kept


@quick
@given(groups, strengths, st.integers(-90, 90))
def test_it_is_homogeneous(z: Tensor, strength: float, power: int) -> None:
    scale = 2.0**power
    assert torch.equal(prox24(scale * z, strength / scale), scale * prox24(z, strength))


@quick
@given(groups, strengths)
def test_a_second_application_leaves_what_is_two_four(z: Tensor, strength: float) -> None:
    once = prox24(z, strength)
    if (once != 0).sum() <= 2:
        assert torch.equal(prox24(once, strength), once)
        assert torch.equal(prox24_reference(once, strength), once)


@quick
@given(groups, strengths)
def test_stronger_never_means_a_larger_regulariser(z: Tensor, strength: float) -> None:
    weaker, stronger = (regulariser(prox24(z, s).numpy()) for s in (strength, 1.5 * strength))
    assert stronger <= weaker * (1 + 1e-9) + 1e-12 * float((z**2).sum()) / max(strength, 1e-6)


@OPERATORS
def test_extremes(operator: Operator) -> None:
    z = torch.tensor([3.0, -2.0, 1.0, -0.5], dtype=torch.float64)
    mask = two_four_mask(z)
    assert torch.equal(operator(z, 0.0), z)
    assert torch.equal(operator(z, 1e300), z * mask)
    assert operator(z, 1e300).signbit().tolist() == [False, True, False, False]
    assert torch.equal(operator(1e300 * z, 1e300), 1e300 * z * mask)
    assert torch.equal(operator(1e-310 * z, 1.0), 1e-310 * z)
    assert torch.equal(operator(1e-310 * z, 1e3), 1e-310 * z)
    assert torch.equal(operator(torch.zeros(8), 1.0), torch.zeros(8))
    assert torch.allclose(1e200 * operator(1e-200 * z, 2e199), operator(z, 0.2), rtol=1e-12)
    uneven = torch.tensor([1e308, -1e-310, 1e-311, 0], dtype=torch.float64)
    assert torch.equal(operator(uneven, 1e290), uneven * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("strength", [1e-6, 0.3])
def test_results_are_rounded_once_to_the_nearest(dtype: torch.dtype, strength: float) -> None:
    z = torch.randn(1 << 16, 4, generator=torch.Generator().manual_seed(6)).to(dtype)
    z[::2] *= torch.finfo(dtype).smallest_normal * 4  # half of them subnormal in this dtype, or nearly
    exact = prox24(z.double(), strength)
    rounded = prox24(z, strength)
    assert rounded.dtype == dtype
    bits = rounded.view(torch.int32 if dtype == torch.float32 else torch.int16)
    error = (rounded.double() - exact).abs()
    for neighbour in (bits + 1, bits - 1):
        other = (neighbour.view(dtype).double() - exact).abs()
        assert not (other < error).any()
        assert not ((other == error) & (bits % 2 != 0)).any(), "a tie goes to the even neighbour"


def test_float64_is_not_rounded_through_a_narrower_dtype() -> None:
    z = torch.tensor([1 + 1e-12, 0.5 + 1e-13, 1e-20, 0.0], dtype=torch.float64)
    assert prox24(z, 10.0).tolist() == [1 + 1e-12, 0.5 + 1e-13, 0.0, 0.0]


def test_any_shape_and_stride_goes() -> None:
    weight = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(7))
    turned = weight.transpose(1, 2)
    assert torch.equal(prox24(turned, 0.2), prox24(turned.contiguous(), 0.2))
    assert prox24(torch.ones(2, 0), 1.0).shape == (2, 0)
    assert prox24(torch.ones(4), 9.0).tolist() == [1, 1, 0, 0]
    trained = weight[..., :0].reshape(6, 0).requires_grad_()
    assert not prox24(trained, 1.0).requires_grad


@pytest.mark.parametrize("shape", [(3, 6), (2,), ()])
def test_an_axis_that_does_not_split_is_refused(shape: tuple[int, ...]) -> None:
    for operator in (prox24, prox24_reference):
        with pytest.raises(ValueError, match=r"last axis that is a multiple of 4\. Got shape"):
            operator(torch.ones(shape), 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    weight = torch.ones(2, 8)
    weight[1, 3] = value
    with pytest.raises(ValueError, match=r"weight must be finite\. Got 1 NaN or infinite entries in shape \(2, 8\)"):
        prox24(weight, 1.0)


@pytest.mark.parametrize("strength", [-1e-9, float("nan"), float("inf")])
def test_a_strength_without_meaning_is_refused(strength: float) -> None:
    z = torch.ones(1, 4)
    for call in (
        lambda: prox24(z, strength),
        lambda: prox24_reference(z, strength),
        lambda: splitting_step(z, z.clone(), z.clone(), z.clone(), strength, 1.0),
        lambda: gradient_step(z, z.clone(), z.clone(), z.clone(), strength, 1.0, 0.0),
    ):
        with pytest.raises(
            ValueError, match=r"strength must be finite and not negative\. Got (-1e-09|nan|inf)\. Pass 0"
        ):
            call()


def four_tensors(dtype: torch.dtype) -> list[Tensor]:
    """Product, gap, sparse (2:4) and target, for a number of groups that fills no block."""
    generator = torch.Generator().manual_seed(9)
    tensors = [torch.randn(37, 20, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]
    tensors[2] *= two_four_mask(tensors[2])
    return tensors


def counts_of(before: Tensor, after: Tensor) -> tuple[int, int]:
    was, now = before.view(-1, 4) != 0, after.view(-1, 4) != 0
    return int((now.sum(dim=-1) > 2).sum()), int((was != now).any(dim=-1).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_splitting_step_is_its_four_statements_in_one(dtype: torch.dtype) -> None:
    product, gap, sparse, target = four_tensors(dtype)
    v = product.double() + (sparse.double() - gap.double())
    z = prox24(v, 0.5)
    expected = z - 0.8 * (v - z) - target.double()
    counts = counts_of(sparse, z)
    assert splitting_step(product, gap, sparse, target, 0.5, 0.8) == counts
    assert min(counts) > 0
    assert torch.equal(sparse, z.to(dtype))
    torch.testing.assert_close(gap, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_step_is_its_three_statements_in_one(dtype: torch.dtype) -> None:
    product, gap, sparse, target = four_tensors(dtype)
    z = prox24(target.double() + gap.double() - 0.3 * product.double(), 0.5)
    expected = z + 0.9 * (z - sparse.double()) - target.double()
    counts = counts_of(sparse, z)
    assert gradient_step(product, gap, sparse, target, 0.5, 0.3, 0.9) == counts
    assert min(counts) > 0
    assert torch.equal(sparse, z.to(dtype))
    torch.testing.assert_close(gap, expected.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_steps_without_a_kernel_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices for which there is no kernel take plain torch: sent there by hiding that this is a CPU."""

    def both() -> tuple[list[tuple[int, int]], list[Tensor]]:
        product, gap, sparse, target = four_tensors(torch.float64)
        counts = [splitting_step(product, gap, sparse, target, 0.5, 0.8)]
        counts.append(gradient_step(product, gap, sparse, target, 0.5, 0.3, 0.9))
        return counts, [gap, sparse]

    counts, fused = both()
    monkeypatch.setattr("prox24_export.solver.prox._on_cpu", lambda _: False)
    other_counts, plain = both()
    assert counts == other_counts
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_loop_entries_refuse_what_they_would_misread() -> None:
    z = torch.ones(4, 8)
    with pytest.raises(ValueError, match=r"gap must be contiguous\. Got strides .*Call \.contiguous\(\)"):
        splitting_step(z, torch.ones(8, 4).T, z.clone(), z, 1.0, 1.0)
    with pytest.raises(
        ValueError, match=r"gap must be float32 or float64 and have .*Got \(4, 8\) torch\.float64 on cpu"
    ):
        splitting_step(z, z.double(), z.clone(), z, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"product must be float32 or float64"):
        gradient_step(z.half(), z.half(), z.half(), z.half(), 1.0, 1.0, 0.0)
