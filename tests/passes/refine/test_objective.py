"""The objective of held-back samples: the dense network's values are kept where they take little memory."""

import pytest
import torch
from torch import Tensor, fx, nn

from prox24_export.passes.refine import objective as of_networks
from prox24_export.passes.refine.objective import Objective

BATCHES, BYTES = 3, 4 * 8 * (5 + 16)  # batches of 8 samples; float32 values of an output and of a cut


class Network(nn.Module):
    """An output and a value at a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(x).relu()
        return self.second(hidden), hidden


@pytest.mark.parametrize(("fitting", "dense_runs"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_the_dense_network_runs_once_for_held_back_samples_that_fit(
    monkeypatch: pytest.MonkeyPatch, fitting: int, dense_runs: int
) -> None:
    torch.manual_seed(0)
    module = fx.symbolic_trace(Network())
    pairs = [((x,), (x,)) for x in torch.randn(BATCHES, 8, 6)]
    objective = Objective(module).fitted(pairs, 1)
    moved = {"first.weight": module.get_parameter("first.weight").detach() * 0.9}
    with torch.no_grad():
        wanted = torch.cat([objective.of(moved, pair) for pair in pairs])

    monkeypatch.setattr(of_networks, "MOST_KEPT", fitting * BYTES)
    measure = objective.held(lambda: pairs)
    runs: list[None] = []
    module.register_forward_hook(lambda *_: runs.append(None))
    for _ in range(2):
        runs.clear()
        assert torch.equal(measure(moved), wanted)
        assert len(runs) == BATCHES + dense_runs


def test_no_more_is_kept_of_a_value_than_is_compared() -> None:
    class Last(nn.Module):
        """The last of many positions, which alone is an output."""

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return ((2 * x)[:, -1:],)

    module = fx.symbolic_trace(Last())
    pairs = [((x,), (x,)) for x in torch.randn(BATCHES, 8, 50, 6)]
    objective = Objective(module).fitted(pairs, 1)
    kept = [value for target in objective._keep(pairs) for value in target or ()]  # noqa: SLF001
    assert len(kept) == BATCHES
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in kept)


def test_a_custom_measure_may_change_what_it_is_given() -> None:
    def measure(sparse: tuple[Tensor, ...], dense: tuple[Tensor, ...]) -> Tensor:
        dense[0].div_(2)
        return (sparse[0] - dense[0]).square().mean(1)

    torch.manual_seed(0)
    module = fx.symbolic_trace(Network())
    pairs = [((x,), (x,)) for x in torch.randn(BATCHES, 8, 6)]
    measured = Objective(module, custom=measure).fitted(pairs, 1).held(lambda: pairs)
    assert torch.equal(measured({}), measured({}))
