"""The padding of convolutions and pools, as the attributes `pads` and `auto_pad` of ONNX give it."""

import math
from collections.abc import Sequence

Margins = list[tuple[int, int]]  # by spatial axis: before, after


def find_margins(
    sizes: Sequence[int], strides: Sequence[int], spans: Sequence[int], pads: Sequence[int] | None, auto_pad: str
) -> Margins:
    """Finds the padding along each spatial axis.

    Args:
        sizes: The sizes of the data along the spatial axes.
        strides: The distance between windows along each.
        spans: The number of positions from a window's first entry to its last, both included, along each.
        pads: The beginnings of all axes, and then their ends; None is no padding.
        auto_pad: `VALID` is no padding; with `SAME_UPPER` and `SAME_LOWER` there is a window for every stride, whatever
            `pads` says, and where its padding is odd there is more of it at the end, or at the beginning.
    """
    rank = len(sizes)
    if auto_pad.startswith("SAME"):
        axes = zip(sizes, strides, spans, strict=True)
        totals = [max(0, (math.ceil(size / stride) - 1) * stride + span - size) for size, stride, span in axes]
        return [halve(total, more_after=auto_pad == "SAME_UPPER") for total in totals]
    if pads is None or auto_pad == "VALID":
        return [(0, 0)] * rank
    return list(zip(pads[:rank], pads[rank:], strict=True))


def halve(total: int, *, more_after: bool) -> tuple[int, int]:
    """Divides padding into what is before and what is after the data."""
    small, large = total // 2, total - total // 2
    return (small, large) if more_after else (large, small)
