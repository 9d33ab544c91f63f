"""ONNX recurrent layers, as torch functions."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Unsupported, make_membership_test, operator

DIRECTIONS = make_membership_test("forward", "reverse", "bidirectional")
LSTM_GATES = (0, 2, 3, 1)  # ONNX stores input, output, forget, cell; torch wants input, forget, cell, output
GRU_GATES = (1, 0, 2)  # ONNX stores update, reset, hidden; torch wants reset, update, hidden

BOTH = 2  # directions


class _Options(TypedDict):
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool


@operator(
    *("LSTM",),
    since=7,
    fixed=[4],
    only={
        "activations": make_membership_test(("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh", "Tanh") * 2),
        "direction": DIRECTIONS,
        "hidden_size": lambda _: True,
        "input_forget": make_membership_test(0),
    },
)
def lstm(  # noqa: PLR0917 (ONNX's order)
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    *,
    direction: str = "forward",
    layout: int = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Runs a long short-term memory: returns all its states, the last states and the last cells."""
    sequence, state = _prepared(x, w, r, lengths, h, direction=direction, layout=layout)
    cells = torch.zeros_like(state) if c is None else _stacked(c, layout)
    found = torch.lstm(sequence, (state, cells), _weights(w, r, b, LSTM_GATES), b is not None, **_options(w))
    return _results(*found, direction=direction, layout=layout)[:outputs]


@operator(
    *("GRU",),
    since=7,
    fixed=[4],
    only={
        "activations": make_membership_test(("Sigmoid", "Tanh"), ("Sigmoid", "Tanh") * 2),
        "direction": DIRECTIONS,
        "hidden_size": lambda _: True,
    },
)
def gru(  # noqa: PLR0917 (ONNX's order)
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    *,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Runs a gated recurrent unit: returns all its states, and the last ones."""
    if not linear_before_reset:
        raise Unsupported("linear_before_reset = 0")
    sequence, state = _prepared(x, w, r, lengths, h, direction=direction, layout=layout)
    found = torch.gru(sequence, state, _weights(w, r, b, GRU_GATES), b is not None, **_options(w))
    return _results(*found, direction=direction, layout=layout)[:outputs]


@operator(
    *("RNN",),
    since=7,
    fixed=[4],
    only={
        "activations": make_membership_test(("Tanh",), ("Tanh", "Tanh")),
        "direction": DIRECTIONS,
        "hidden_size": lambda _: True,
    },
)
def rnn(  # noqa: PLR0917 (ONNX's order)
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    *,
    direction: str = "forward",
    layout: int = 0,
    outputs: int,
) -> tuple[Tensor, ...]:
    """Runs a plain recurrence with tanh: returns all its states, and the last ones."""
    sequence, state = _prepared(x, w, r, lengths, h, direction=direction, layout=layout)
    found = torch.rnn_tanh(sequence, state, _weights(w, r, b, (0,)), b is not None, **_options(w))
    return _results(*found, direction=direction, layout=layout)[:outputs]


def _prepared(
    x: Tensor, w: Tensor, r: Tensor, lengths: Tensor | None, h: Tensor | None, *, direction: str, layout: int
) -> tuple[Tensor, Tensor]:
    """Prepares the sequence [steps, N, I] in the order in which it is read, and the first state [directions, N, H]."""
    sequence = x.transpose(0, 1) if layout else x
    if lengths is not None and bool((lengths != sequence.shape[0]).any()):
        raise Unsupported("sequences of different lengths")
    sequence = sequence.flip(0) if direction == "reverse" else sequence
    if h is not None:
        return sequence, _stacked(h, layout)
    return sequence, x.new_zeros(w.shape[0], sequence.shape[1], r.shape[-1])


def _stacked(state: Tensor, layout: int) -> Tensor:
    return (state.transpose(0, 1) if layout else state).contiguous()  # as cuDNN wants it


def _weights(w: Tensor, r: Tensor, b: Tensor | None, gates: Sequence[int]) -> list[Tensor]:
    """The weights as torch takes them for every direction, with the gates in torch's order."""
    flat = []
    for place in range(w.shape[0]):
        parts = [w[place], r[place], *(b[place].chunk(2) if b is not None else ())]
        flat += [torch.cat([part.chunk(len(gates))[gate] for gate in gates]) for part in parts]
    return flat


def _options(w: Tensor) -> _Options:
    train = torch.is_grad_enabled()  # cuDNN computes gradients of no other recurrences; nothing is dropped out
    return _Options(num_layers=1, dropout=0.0, train=train, bidirectional=w.shape[0] == BOTH, batch_first=False)


def _results(states: Tensor, *last: Tensor, direction: str, layout: int) -> tuple[Tensor, ...]:
    """Brings states to ONNX's shapes: [steps, directions, N, H] and [directions, N, H]."""
    steps, batch = states.shape[:2]
    states = states.flip(0) if direction == "reverse" else states
    states = states.reshape(steps, batch, last[0].shape[0], -1)
    if layout:
        return (states.transpose(0, 1), *(state.transpose(0, 1) for state in last))
    return (states.transpose(1, 2), *last)
