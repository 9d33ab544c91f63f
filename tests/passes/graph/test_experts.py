"""Experts against what a network with one module for each of them would see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prox24_export.passes.calibrate.calibrate import Calibrate
from prox24_export.passes.calibrate.schedule import schedule
from prox24_export.passes.calibrate.streams import Batch, Streams
from prox24_export.passes.find_linears import FindLinears
from prox24_export.passes.front_torch.graph import FxGraph
from prox24_export.passes.front_torch.trace import trace
from prox24_export.passes.graph.arrays import as_tensor
from prox24_export.passes.graph.experts import Expert, name_part, replace_parts, split_part_name
from prox24_export.passes.graph.protocol import Reason, Skipped
from tests.graphs import linears

E, T, K, N = 3, 10, 8, 16


def graph(module: nn.Module, *example: Tensor) -> FxGraph:
    program = trace(module, example, {}, "module")
    return FxGraph(Path("module"), program)


def weights(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))


class Routed(nn.Module):
    """Each token goes to one expert, by the sign pattern of a router; rows are sorted by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(K, E, bias=False)
        self.up = weights(E, N, K)
        self.down = weights(E, K, N)

    def forward(self, x: Tensor) -> Tensor:
        chosen, order = torch.sort(self.router(x).argmax(-1), stable=True)
        ends = torch.cumsum(torch.nn.functional.one_hot(chosen, E).sum(0), 0).to(torch.int32)
        rows = torch._grouped_mm(x[order].bfloat16(), self.up.bfloat16().transpose(1, 2), ends)  # noqa: SLF001
        back = torch._grouped_mm(torch.relu(rows), self.down.bfloat16().transpose(1, 2), ends)  # noqa: SLF001
        return torch.zeros_like(x).index_put((order,), back.float())


class Batched(nn.Module):
    """Every expert sees rows of its own, [E, T, K]."""

    def __init__(self) -> None:
        super().__init__()
        self.up = weights(E, K, N)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.up)


class Selected(nn.Module):
    """Experts by number, as a loop over them has it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = weights(E, N, K)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.nn.functional.linear(x, self.up[index]) for index in range(E)])


class Turned(nn.Module):
    """The batch axis is not the stored first one."""

    def __init__(self) -> None:
        super().__init__()
        self.up = weights(K, E, N)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.up.transpose(0, 1))


def grams(traced: FxGraph, x: Tensor) -> dict[str, Tensor]:
    streams = Streams(traced, [Batch("fit", {traced.inputs[0].name: x.numpy()})])
    found = linears(traced)
    seen: dict[str, Any] = {}
    for stage in schedule(traced, found):
        seen |= Calibrate().call(streams=streams, stage=stage, weights={}).observations
    return {layer.weight: seen[layer.name].fit.gram for layer in found}


def test_grouped_products_give_each_expert_the_gram_matrix_of_its_own_tokens() -> None:
    module, x = Routed(), torch.randn(T, K, generator=torch.Generator().manual_seed(2))
    seen = grams(graph(module, x), x)
    chosen = module.router(x).argmax(-1)
    assert set(seen) == {"router.weight"} | {f"{name}[{index}]" for name in ("up", "down") for index in range(E)}
    for index in range(E):
        mine = x[chosen == index].bfloat16()
        hidden = torch.relu(mine @ module.up[index].bfloat16().T).float()
        torch.testing.assert_close(seen[f"up[{index}]"].float(), mine.float().T @ mine.float())
        torch.testing.assert_close(seen[f"down[{index}]"].float(), (hidden.T @ hidden).detach(), rtol=0.05, atol=0.5)


def test_a_batched_product_gives_each_expert_its_own_rows() -> None:
    x = torch.randn(E, T, K, generator=torch.Generator().manual_seed(2))
    traced = graph(Batched(), x)
    seen = grams(traced, x)
    assert [(layer.k, layer.n, layer.weight) for layer in linears(traced)] == [(K, N, f"up[{i}]") for i in range(E)]
    for index in range(E):
        torch.testing.assert_close(seen[f"up[{index}]"].float(), x[index].T @ x[index])


def test_experts_by_number_are_found_and_replaced_one_by_one() -> None:
    module, x = Selected(), torch.randn(T, K, generator=torch.Generator().manual_seed(2))
    traced = graph(module, x)
    found = linears(traced)
    assert [layer.weight for layer in found] == ["up[0]", "up[1]", "up[2]"]
    zero = np.zeros((N, K), np.float32)
    (result,) = traced.compile(traced.nodes, {}, traced.outputs, {"up[1]": zero})(
        {traced.inputs[0].name: x.numpy()}
    ).values()
    expected = module(x).detach()
    expected[1] = 0
    torch.testing.assert_close(result, expected)


def test_a_batch_axis_that_is_no_stored_first_one_stays_dense() -> None:
    (skipped,) = FindLinears().call(graph=graph(Turned(), torch.zeros(E, T, K))).layers
    assert isinstance(skipped, Skipped)
    assert skipped.reason is Reason.BATCHED_WEIGHT


def test_rows_of_streams_that_route_differently_are_paired_by_token() -> None:
    expert = Expert(1, "ends", "tokens")
    rows = torch.arange(4.0)[:, None].expand(4, 2)
    dense = {"x": rows, "ends": torch.tensor([1, 3, 4]), "tokens": torch.tensor([7, 5, 6, 8])}
    pruned = {"x": rows + 10, "ends": torch.tensor([2, 4, 4]), "tokens": torch.tensor([6, 7, 8, 5])}
    left, right = expert.rows("x", dense, pruned)
    assert right[:, 0].tolist() == [12, 13]  # tokens 8 and 5
    assert left[:, 0].tolist() == [12, 1]  # 8 went elsewhere in the dense stream; 5 is its row 1
    unknown = Expert(1, "ends").rows("x", dense, pruned)
    assert unknown[0] is unknown[1]


@pytest.mark.parametrize(("name", "whole"), [("up[2]", ("up", 2)), ("a[0]", ("a[0]", None)), ("up", ("up", None))])
def test_names_of_parts(name: str, whole: tuple[str, int | None]) -> None:
    assert split_part_name(name, {"up", "a[0]"}) == whole
    assert name_part(*whole) == name


def test_parts_replace_entries_of_a_copy() -> None:
    stored = {"up": torch.zeros(E, 2), "other": torch.zeros(2)}
    one = np.ones(2, np.float32)
    result = replace_parts({"up[1]": one, "other": one}, stored, as_tensor, {"up"}.__contains__)
    assert list(result) == ["up"]
    assert result["up"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert not stored["up"].any()
