"""A traced program is functional, and tracing it once more changes no name."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prox24_export.passes.front_torch.flat_module import make_flat_module
from prox24_export.passes.front_torch.trace import changes_in_place, make_functional, trace


class InPlace(nn.Module):
    """Layers whose outputs are changed in place, in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 2 * self.first(x)
        hidden.mul_(torch.sigmoid(hidden))
        hidden[:, 0] = 0
        hidden[:, 1::2] = hidden[:, ::2] * 2
        result: Tensor = nn.functional.relu(self.second(hidden), inplace=True)
        return result


def test_values_keep_their_names_when_a_program_is_read_again() -> None:
    module, x = InPlace(), torch.randn(3, 8)
    program = trace(module, (x,), {}, "module")
    assert not any(map(changes_in_place, program.graph.nodes))
    assert any(map(changes_in_place, torch.export.export(module, (x,)).graph.nodes))
    names = [node.name for node in program.graph.nodes]
    assert [node.name for node in make_functional(program).graph.nodes] == names
    torch.testing.assert_close(program.module()(x), module(x))


def test_what_is_assigned_in_place_has_a_gradient() -> None:
    module, x = InPlace(), torch.randn(3, 8)
    flat = make_flat_module(trace(module, (x,), {}, "module")).module
    assert torch.ops.aten.copy.default in {node.target for node in trace(module, (x,), {}, "module").graph.nodes}
    weights = {name: value.detach().requires_grad_() for name, value in flat.named_parameters()}
    ours = torch.autograd.grad(functional_call(flat, weights, (x,))[0].square().sum(), list(weights.values()))
    theirs = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
