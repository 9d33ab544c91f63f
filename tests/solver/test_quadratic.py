import pytest
import torch

from prox24_export.solver import quadratic
from prox24_export.solver.quadratic import Quadratic, automatic_damping, energy
from tests.solver.problems import correlated, weights


def test_correction_leads_to_the_least_squares_weight_of_the_dense_output() -> None:
    dense, pruned = correlated(300, 8), correlated(300, 8) + 0.2 * correlated(300, 8, seed=3)
    weight = weights(4, 8)
    correction = Quadratic.of(pruned.T @ pruned, dense.T @ pruned, 0.0).correction(weight, None)
    assert correction is not None
    wanted = torch.linalg.lstsq(pruned, dense @ weight.double().T).solution.T
    torch.testing.assert_close(weight.double() + correction, wanted)


def test_equal_streams_need_no_correction() -> None:
    x = correlated(50, 8)
    gram = x.T @ x
    assert Quadratic.of(gram, gram, 0.01).correction(weights(2, 8), None) is None
    assert Quadratic.of(gram, None, 0.01).correction(weights(2, 8), None) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_resolvent_solves_its_equation_and_is_made_once_for_a_penalty(dtype: torch.dtype) -> None:
    x = correlated(50, 8)
    made = Quadratic.of(x.T @ x, None, 0.02)
    scaled = made.make_scaled_gram(dtype)
    torch.testing.assert_close(scaled.diagonal(), torch.ones(8, dtype=dtype), atol=1e-5, rtol=1e-5)
    one, identity = made.resolvent(0.3, dtype), torch.eye(8, dtype=dtype)
    torch.testing.assert_close(one @ (scaled + 0.3 * identity), 0.3 * identity, atol=1e-5, rtol=1e-5)
    assert made.resolvent(0.3, dtype) is one
    other = made.resolvent(0.6, dtype)
    torch.testing.assert_close(other @ (scaled + 0.6 * identity), 0.6 * identity, atol=1e-5, rtol=1e-5)
    made.forget_resolvents()
    assert made.resolvent(0.6, dtype) is not other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_is_the_trace_it_says(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = correlated(50, 24), weights(5, 24).to(dtype)
    gram = x.T @ x
    whole = float(energy(weight, gram))
    assert whole == pytest.approx(float(torch.trace(weight.double() @ gram @ weight.double().T)), rel=1e-6)
    monkeypatch.setattr(quadratic, "ENTRIES_AT_ONCE", 24 * 7)
    assert float(energy(weight, gram)) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("tokens", "expected"), [(None, 0.01), (8192 * 11, 0.01), (8192 * 4, 0.0275), (100, 0.1)])
def test_damping_grows_as_tokens_get_fewer(tokens: int | None, expected: float) -> None:
    assert automatic_damping(tokens, 8192) == pytest.approx(expected)
