import pytest
import torch

from prox24_export.solver.products import multiply, tf32, times_its_transpose


def test_tf32_keeps_ten_bits_and_rounds_to_the_nearest() -> None:
    unit = 2.0**-10
    values = torch.tensor([1.0, 1 + unit, 1 + 0.49 * unit, 1 + 0.51 * unit, -1 - 0.51 * unit, 0.0, 3e38])
    assert tf32(values)[:6].tolist() == [1.0, 1 + unit, 1.0, 1 + unit, -1 - unit, 0.0]
    random = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert ((tf32(random) - random).abs() <= random.abs() * unit / 2).all()
    assert torch.equal(tf32(tf32(random)), tf32(random))


@pytest.mark.parametrize("products", ["auto", "float32", "tf32"])
def test_a_product_is_as_precise_as_it_says(products: str) -> None:
    left, right = torch.randn(30, 40), torch.randn(40, 20)
    exact = left.double() @ right.double()
    into = torch.empty(30, 20)
    result = multiply(left, right, products, out=into)  # type: ignore[arg-type] # one of the three
    assert result is into
    error = float((result - exact).abs().max())
    assert error < (1e-2 if products == "tf32" else 1e-5)
    assert (error > 1e-5) == (products == "tf32")


@pytest.mark.parametrize("size", [1, 4, 10, 33])
def test_a_symmetric_product_is_that_product(size: int) -> None:
    half = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(times_its_transpose(half, "float32"), half @ half.T)
