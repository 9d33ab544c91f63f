"""What operators let channels do: the twin of a model, all of whose free spaces are shuffled, computes the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch's own documentation uses)
from torch import Tensor, nn

from prox24_export.passes.permute import axes, rules
from prox24_export.passes.permute.labels import Group, Labels, Value
from tests.passes.permute.twins import Twin, twin_of_module

EXACT = 1e-12


class Chain(nn.Module):
    """Two layers, and what is between them."""

    def __init__(self, first: nn.Module, between: Callable[..., Tensor], last: nn.Module, *more: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self.more = first, last, nn.ModuleList(more)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.between(self.first(x), *self.more))
        return result


def conv(c: int, n: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c, n, size, padding=size // 2, **options)


def trained(module: nn.Module) -> nn.Module:
    """The module with scales, shifts and statistics that differ from channel to channel."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand_like(tensor))
    return module


class Attention(nn.Module):
    """Attention with so many heads for queries, and for keys and values."""

    def __init__(self, width: int, heads: int, shared: int, *, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.shared, self.size, self.rotary = heads, shared, width // heads, rotary
        self.q = nn.Linear(width, width)
        self.k, self.v = nn.Linear(width, shared * self.size), nn.Linear(width, shared * self.size)
        self.o = nn.Linear(width, width)
        self.angles = nn.Buffer(torch.rand(5, self.size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(len(x), -1, heads, self.size).transpose(1, 2)
            for layer, heads in ((self.q, self.heads), (self.k, self.shared), (self.v, self.shared))
        )
        if self.rotary:
            q, k = (
                y * self.angles.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * self.angles.sin() for y in (q, k)
            )
        k, v = (y.repeat_interleave(self.heads // self.shared, 1) for y in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.o(mixed.transpose(1, 2).reshape(len(x), -1, self.heads * self.size))
        return result


LINEAR = nn.Linear(6, 16), nn.Linear(16, 8)
CONV = conv(3, 16), conv(16, 8)
VECTORS, IMAGES = torch.randn(3, 6), torch.randn(2, 3, 8, 8)
FREE: dict[str, tuple[nn.Module, Tensor, list[int]]] = {
    "activation": (Chain(LINEAR[0], F.gelu, LINEAR[1]), VECTORS, [16]),
    "layer norm": (Chain(LINEAR[0], lambda x, norm: norm(x), LINEAR[1], trained(nn.LayerNorm(16))), VECTORS, [16]),
    "softmax": (Chain(LINEAR[0], lambda x: x.softmax(-1), LINEAR[1]), VECTORS, [16]),
    "batch norm": (Chain(CONV[0], lambda x, norm: norm(x), CONV[1], trained(nn.BatchNorm2d(16))), IMAGES, [16]),
    "group norm": (Chain(CONV[0], lambda x, n: n(x), CONV[1], trained(nn.GroupNorm(2, 16))), IMAGES, [8, 8]),
    "depthwise": (Chain(CONV[0], lambda x, c: c(x), CONV[1], conv(16, 16, groups=16)), IMAGES, [16]),
    "pooling": (Chain(CONV[0], lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2), CONV[1]), IMAGES, [16]),
    "resize": (Chain(CONV[0], lambda x: F.interpolate(x, scale_factor=2), CONV[1]), IMAGES, [16]),
    "transposed": (Chain(nn.ConvTranspose2d(3, 16, 2), F.relu, conv(16, 8)), IMAGES, [16]),
    "residual": (Chain(CONV[0], lambda x, c: x + c(x), CONV[1], conv(16, 16)), IMAGES, [16]),
    "scale": (Chain(CONV[0], lambda x, c: x * c(x.mean((2, 3), keepdim=True)), CONV[1], conv(16, 16, 1)), IMAGES, [16]),
    "flatten": (Chain(conv(3, 16, 1), lambda x: x.flatten(1), nn.Linear(16 * 64, 8)), IMAGES, []),
    "mean": (Chain(CONV[0], lambda x: x.mean((2, 3)), LINEAR[1]), IMAGES, [16]),
    "halves": (Chain(CONV[0], lambda x: F.glu(x, 1), conv(8, 8)), IMAGES, [8]),
    "spatial pad": (Chain(CONV[0], lambda x: F.pad(x, (1, 1, 2, 0)), CONV[1]), IMAGES, [16]),
    "channel pad": (Chain(conv(3, 8), lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)), CONV[1]), IMAGES, [8]),
    "channels last": (Chain(CONV[0], lambda x: x.permute(0, 2, 3, 1), LINEAR[1]), IMAGES, [16]),
}


@pytest.mark.parametrize("name", FREE)
def test_channels_move_through_what_treats_all_alike(name: str) -> None:
    module, x, blocks = FREE[name]
    found = twin_of_module(module, x)
    assert found.deviation < EXACT
    space, *padding = found.spaces
    assert bool(padding) == (name == "channel pad")  # the zeros around the channels can change places, too
    assert [block.groups.size for block in space.blocks] == blocks, space.reason
    assert bool(found.moved) == bool(found.free())


INPUT = "its channels are those of the input"
FIXED: dict[str, tuple[nn.Module, Tensor, str]] = {
    "input": (conv(8, 4), torch.randn(2, 8, 5, 5), INPUT),
    "order": (Chain(LINEAR[0], lambda x: x.cumsum(1), LINEAR[1]), VECTORS, "cumsum"),
    "grouped": (
        Chain(CONV[0], lambda x, c: c(x), CONV[1], conv(16, 16, groups=4)),
        IMAGES,
        "at most 4 of",
    ),
    "few": (Chain(conv(3, 4), F.relu, conv(4, 8)), IMAGES, "it has only 4 channels"),
    "unknown": (Chain(LINEAR[0], lambda x: torch.sort(x).values, LINEAR[1]), VECTORS, "sort"),
    "constant": (Chain(LINEAR[0], lambda x: x * torch.arange(16.0), LINEAR[1]), VECTORS, "arange"),
}


@pytest.mark.parametrize("name", FIXED)
def test_channels_stay_where_an_operator_tells_them_apart_and_the_reason_names_it(name: str) -> None:
    module, x, reason = FIXED[name]
    found = twin_of_module(module, x)
    assert (found.moved, found.deviation) == (0, 0.0)
    assert any(reason in said for said in found.fixed().values()), found.fixed()


def behind_a_layer(attention: nn.Module) -> Twin:
    return twin_of_module(Chain(nn.Linear(6, 32), torch.tanh, attention), torch.randn(2, 5, 6))


@pytest.mark.parametrize("shared", [2, 1])
def test_values_move_within_each_head_and_heads_that_share_them_move_alike(shared: int) -> None:
    found = behind_a_layer(Attention(32, 4 if shared == 2 else 2, shared))
    size = 8 if shared == 2 else 16
    assert found.free() == {"last.q": [32], "last.o": [size] * shared}
    assert found.deviation < EXACT


def test_rotary_positions_leave_the_stream_and_the_values_free() -> None:
    found = behind_a_layer(Attention(32, 4, 2, rotary=True))
    assert found.free() == {"last.q": [32], "last.o": [8, 8]}
    assert found.deviation < EXACT


def test_joined_channels_move_within_their_part() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.last = conv(3, 8), conv(3, 12), conv(20, 8)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(torch.cat([self.one(x), self.other(x).relu()], 1))
            return result

    found = twin_of_module(Joined(), IMAGES)
    assert sorted(space.size for space in found.spaces) == [8, 12]
    assert sorted(block.groups.size for space in found.spaces for block in space.blocks) == [8, 12]
    assert found.deviation < EXACT


def test_a_tied_embedding_and_a_gated_network_move_with_their_stream() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(11, 16), trained(nn.LayerNorm(16))
            self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            y = self.norm(x)
            x = x + self.down(F.silu(self.gate(y)) * self.up(y))
            return F.linear(x, self.table.weight)

    found = twin_of_module(Decoder(), torch.randint(0, 11, (2, 5)))
    assert found.free() == {"gate": [16], "down": [24]}
    assert found.deviation < EXACT


def test_a_weight_that_is_used_in_a_circle_joins_its_own_axes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            for _ in range(3):
                y = self.again(y).relu()
            result: Tensor = self.last(y)
            return result

    found = twin_of_module(Twice(), VECTORS)
    assert found.free() == {"again": [16]}
    assert found.deviation < EXACT


def test_a_wrong_rule_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concat as if it were elementwise: what the second part brings does not move with what reads it."""

    def repeat_first(call: rules.OperatorCall) -> Value:
        first = call.tensors()[0].groups[0]
        return Value(call.shapes[0], (Group(first.axes, np.concatenate([first.ids, first.ids])),))

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(torch.cat([self.one(x), self.other(x)], 1))
            return result

    right = twin_of_module(Joined(), VECTORS)
    monkeypatch.setitem(rules.RULES, "cat", repeat_first)
    assert right.deviation < EXACT
    assert twin_of_module(Joined(), VECTORS).deviation > 1e-3


def test_a_rule_that_forgets_an_order_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Chain(LINEAR[0], lambda x: x.cumsum(1), LINEAR[1])
    monkeypatch.setitem(rules.RULES, "cumsum", lambda call: call.value())
    assert twin_of_module(module, VECTORS).deviation > 1e-3


def test_a_rule_that_gives_another_shape_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.RULES, "cumsum", lambda _: Value((1, 2)))
    with pytest.raises(RuntimeError, match="rule of cumsum"):
        twin_of_module(Chain(LINEAR[0], lambda x: x.cumsum(1), LINEAR[1]), VECTORS)


def test_labels_that_occur_equally_are_alike_until_something_tells_them_apart() -> None:
    labels = Labels()
    value = Value((4,), (Group((0,), labels.allocate(4)),))
    labels.observe(value)
    assert len(set(labels.resolve().colours.tolist())) == 1
    labels.tell_apart(value.groups[0].ids, value.groups[0].coordinates((0,)) // 2, "halves")
    assert len(set(labels.resolve().colours.tolist())) == 2
    axes.fix_all(labels, value, "all")
    classes = labels.resolve()
    assert len(set(classes.colours.tolist())) == 4
    assert classes.reasons == dict.fromkeys(range(4), "all")
