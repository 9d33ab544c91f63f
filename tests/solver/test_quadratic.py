import pytest
import torch

from prox24_export.solver.quadratic import Quadratic, automatic_damping
from tests.solver.problems import correlated, weights


def test_correction_leads_to_the_least_squares_weight_of_the_dense_output() -> None:
    dense, pruned = correlated(300, 8), correlated(300, 8) + 0.2 * correlated(300, 8, seed=3)
    weight = weights(4, 8)
    quadratic = Quadratic.of(pruned.T @ pruned, dense.T @ pruned, 0.0)
    correction = quadratic.correction(weight, None)
    assert correction is not None
    wanted = torch.linalg.lstsq(pruned, dense @ weight.double().T).solution.T
    torch.testing.assert_close(weight.double() + correction, wanted)


def test_equal_streams_need_no_correction() -> None:
    x = correlated(50, 8)
    gram = x.T @ x
    assert Quadratic.of(gram, gram, 0.01).correction(weights(2, 8), None) is None
    assert Quadratic.of(gram, None, 0.01).correction(weights(2, 8), None) is None


def test_spectrum_rebuilds_the_gram_matrix_of_unit_diagonal() -> None:
    x = correlated(50, 8)
    quadratic = Quadratic.of(x.T @ x, None, 0.02)
    values, vectors = quadratic.spectrum
    rebuilt = vectors @ torch.diag(values) @ vectors.T
    torch.testing.assert_close(rebuilt, quadratic.scaled_gram, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rebuilt.diagonal(), torch.ones(8), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "expected"), [(None, 0.01), (8192 * 11, 0.01), (8192 * 4, 0.0275), (100, 0.1)])
def test_damping_grows_as_tokens_get_fewer(tokens: int | None, expected: float) -> None:
    assert automatic_damping(tokens, 8192) == pytest.approx(expected)
