"""Nodes of a traced program on another device."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prox24_export.passes.front_torch.device_interpreter import RECURRENT, move_nodes
from prox24_export.passes.front_torch.flat_module import make_flat_module


class Recurrent(nn.Module):
    """A layer before a recurrence, which gradients reach through it alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last: Any = getattr(nn, kind)(6, 3, num_layers=2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.last(self.first(x))[0]
        return states


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_moved_recurrences_train_and_drop_nothing_out(kind: str) -> None:
    """On a GPU, cuDNN computes no gradient of a recurrence that does not train."""
    torch.manual_seed(0)
    x = torch.randn(5, 2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own recurrences
        module = make_flat_module(torch.export.export(Recurrent(kind).eval(), (x,))).module
    before = module(x)
    move_nodes(module.graph, torch.device("cpu"))
    module.recompile()
    (node,) = [node for node in module.graph.nodes if node.target in RECURRENT]
    names = [one.name for one in node.target._schema.arguments]  # noqa: SLF001 - torch has no other way
    named = dict(zip(names, node.args, strict=False))
    assert (named["dropout"], named["train"], named["num_layers"]) == (0.0, True, 2)
    torch.testing.assert_close(module(x), before)
