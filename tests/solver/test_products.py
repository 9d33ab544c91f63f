import pytest
import torch

from prox24_export.solver.products import Products, choose_products, multiply, split, tf32


def test_tf32_keeps_ten_bits_and_rounds_to_the_nearest() -> None:
    unit = 2.0**-10
    values = torch.tensor([1.0, 1 + unit, 1 + 0.49 * unit, 1 + 0.51 * unit, -1 - 0.51 * unit, 0.0, 3e38])
    assert tf32(values)[:6].tolist() == [1.0, 1 + unit, 1.0, 1 + unit, -1 - unit, 0.0]
    random = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert ((tf32(random) - random).abs() <= random.abs() * unit / 2).all()
    assert torch.equal(tf32(tf32(random)), tf32(random))


def test_a_split_has_sixteen_bits() -> None:
    random = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    high, low = split(random)
    assert high.dtype == low.dtype == torch.bfloat16
    assert ((high.double() + low.double() - random).abs() <= random.abs() * 2.0**-16).all()


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0, 2e-6), ("bf16x3", 3e-6, 6e-5), ("tf32", 1e-4, 3e-3), ("bf16", 1e-3, 2e-2)],
)
def test_a_product_is_as_precise_as_it_says(precision: Products, least: float, most: float) -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = torch.randn(30, 40, generator=generator), torch.randn(40, 20, generator=generator)
    exact = left.double() @ right.double()
    into = torch.empty(30, 20)
    result = multiply(left, right, precision, out=into)
    assert result is into
    assert torch.equal(result, multiply(left, right, precision))
    error = float((result - exact).abs().max() / exact.abs().max())
    assert least <= error <= most


@pytest.mark.parametrize(
    ("found", "chosen"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "float32")]
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    found: dict[str, bool], chosen: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert choose_products("auto", torch.device("cpu")) == chosen
    assert choose_products("tf32", torch.device("cpu")) == "tf32"


def test_float64_is_multiplied_as_it_is() -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(20, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.equal(multiply(left, right, "bf16"), left @ right)
