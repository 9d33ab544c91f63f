"""The values that each segment reads and returns, in the dense network and in the refined one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call

from prox24_export.passes.refine.objective import NetworkValues, StreamPair
from prox24_export.passes.refine.segments import Segment, extract_shared_values, find_shared_names
from prox24_export.passes.refine.views import Inputs

CPU = torch.device("cpu")
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class _MovingPair:
    """What both networks read, in the memory of the host; whoever unpacks it gets it on the device.

    Several batches may so be at hand for trial steps, while the device holds one. What both read moves once.
    """

    dense: NetworkValues
    sparse: NetworkValues
    device: torch.device

    def __iter__(self) -> Iterator[NetworkValues]:
        dense = tuple(_move(value, self.device) for value in self.dense)
        yield dense
        both = list(zip(self.dense, self.sparse, dense, strict=True))
        if all(there is here for there, here, _ in both):
            yield dense
        else:
            yield tuple(moved if here is there else _move(here, self.device) for there, here, moved in both)


class SegmentStreams:
    """What the next segment reads of every batch, in the dense network and in the refined one.

    The samples of a batch stay together, because a value at a cut need not have its samples along the first axis. All
    values are in the memory of the CPU; only the batch in work is on the device.
    """

    def __init__(
        self, module: fx.GraphModule, segments: Sequence[Segment], batches: Iterable[Inputs], device: torch.device
    ) -> None:
        """Computes the values that no weight changes: masks, positions, the output of the stem.

        Args:
            module: The dense network.
            segments: Its segments, in order.
            batches: The inputs of the network.
            device: The device to compute on.
        """
        self._device = device
        self._last_reader = {name: index for index, segment in enumerate(segments) for name in segment.inputs}
        names, before = find_shared_names(segments), extract_shared_values(module, segments)
        self._dense: list[dict[str, Any]] = []
        for feeds in batches:
            with torch.no_grad():
                values = before(*(feed.to(device) for feed in feeds))
            self._dense.append({name: _move(value, CPU) for name, value in zip(names, values, strict=True)})
        self._sparse = [dict(values) for values in self._dense]

    def pairs(self, segment: Segment, order: Sequence[int] | None = None) -> Iterator[StreamPair]:
        """Yields what `segment` reads in both networks, batch by batch, to be moved to the device when it is read.

        What is read is one object twice where nothing differs.

        Args:
            segment: The segment that comes next.
            order: Places of the batches in the order wanted. None takes all in their own order.
        """
        for index in range(len(self._dense)) if order is None else order:
            dense, sparse = (
                tuple(stream[index][name] for name in segment.inputs) for stream in (self._dense, self._sparse)
            )
            yield _MovingPair(dense, sparse, self._device)

    def shuffled(self, segment: Segment, epoch: int, seed: int) -> Iterator[StreamPair]:
        """Yields the same pairs in an order that depends on the epoch and the seed."""
        generator = torch.Generator().manual_seed(seed + epoch)
        return self.pairs(segment, torch.randperm(len(self._dense), generator=generator).tolist())

    def advance(
        self, place: int, segment: Segment, weights: Mapping[str, Tensor], fixed: Mapping[str, Tensor] = NOTHING
    ) -> None:
        """Runs a segment in both networks, and drops the values that no later segment reads.

        Args:
            place: Place of the segment among all.
            segment: The segment.
            weights: Its refined weights by name of the parameter.
            fixed: What its buffers hold in the refined network alone, by name of the buffer.
        """
        cast = {name: weight.to(segment.module.get_parameter(name).dtype) for name, weight in weights.items()}
        for index, (dense, sparse) in enumerate(self.pairs(segment)):
            with torch.no_grad():
                passed = (segment.module(*dense), functional_call(segment.module, {**fixed, **cast}, sparse))
            for stream, values in zip((self._dense, self._sparse), passed, strict=True):
                stream[index][segment.cuts[-1]] = _move(values[-1], CPU)
                for name in [name for name in stream[index] if self._last_reader.get(name, -1) <= place]:
                    del stream[index][name]


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
