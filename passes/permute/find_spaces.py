"""Finds the channel spaces of a model: which input channels of its layers may change places, and why others may not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from prox24_export.passes.graph.experts import split_part_name
from prox24_export.passes.graph.protocol import Linear
from prox24_export.passes.permute import axes
from prox24_export.passes.permute.aten_trace import AtenTrace
from prox24_export.passes.permute.labels import Classes, Group, Ids, Labels, Value, mix
from prox24_export.passes.permute.rules import OperatorCall, find_rule, keep_in_place
from prox24_export.solver.pattern import GROUP

SMALLEST = 5  # channels that can be divided into groups of four in more than one way


@dataclass(frozen=True)
class StoredEntries:
    """Where the channels of a space lie along one axis of a stored tensor.

    Attributes:
        tensor: Name of the stored tensor.
        axis: The axis.
        entries: For each channel of the space, its entries along the axis [channels, entries of each].
        size: Number of all entries along the axis.
    """

    tensor: str
    axis: int
    entries: Ids
    size: int


@dataclass(frozen=True)
class Reader:
    """A layer that multiplies by the channels of one block.

    Attributes:
        layer: Name of the layer.
        columns: The columns of its matrix that the channels of the block's groups are, in the order of the groups
            [groups, 4, columns of each channel]. A convolution has one column for each entry of its kernel.
    """

    layer: str
    columns: Ids


@dataclass(frozen=True)
class Block:
    """Channels that may change places among each other.

    Attributes:
        groups: The channels that a layer has in one group of four, by their numbers in the space [groups, 4].
        readers: The layers that have them so.
    """

    groups: Ids
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class ChannelSpace:
    """Channels that are stored in the same places.

    Attributes:
        name: Name of the first layer that reads the channels.
        size: How many channels there are.
        blocks: Channels that may change places among each other; all others stay where they are.
        places: Every place where the channels are stored.
        readers: Names of the layers along whose reduction axis the channels lie.
        reason: Why no channel can change its place; empty where some can.
    """

    name: str
    size: int
    blocks: tuple[Block, ...]
    places: tuple[StoredEntries, ...]
    readers: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class FoundSpaces:
    """The channel spaces of a model that some layer reads.

    Attributes:
        spaces: Free and fixed ones, in the order of the first layer that reads them.
    """

    spaces: tuple[ChannelSpace, ...]

    @property
    def free(self) -> list[ChannelSpace]:
        """Those whose channels can change places."""
        return [space for space in self.spaces if not space.reason]


@dataclass(frozen=True)
class FindSpaces:
    """The pass that finds channel spaces. It has no settings."""

    def call(self, *, trace: AtenTrace, linears: Sequence[Linear]) -> FoundSpaces:
        """Follows every axis of every stored tensor through the graph.

        Args:
            trace: What the model computes.
            linears: Its layers that can be pruned, which read the channels.
        """
        labels = Labels()
        leaves = _walk(trace, labels)
        classes = labels.resolve()
        columns = {
            linear.name: classes.of[ids] for linear in linears if (ids := _find_columns(leaves, linear)) is not None
        }
        found = FoundSpaces(tuple(_collect(leaves, classes, columns)))
        self.ensures(found)
        return found

    @staticmethod
    def ensures(found: FoundSpaces) -> None:
        """Expects every entry of an axis in one space at most: two orders of one entry would undo each other.

        Raises:
            RuntimeError: An entry is in two spaces. This is a fault of this program, never of its input.
        """
        taken: dict[tuple[str, int], Ids] = {}
        for space in found.spaces:
            for place in space.places:
                key, mine = (place.tensor, place.axis), place.entries.reshape(-1)
                known = taken.get(key, mine[:0])
                if len(np.intersect1d(known, mine)):
                    raise RuntimeError(f"an entry of {place.tensor} is in two channel spaces. Please report this.")
                taken[key] = np.concatenate([known, mine])


def _walk(trace: AtenTrace, labels: Labels) -> dict[str, Value]:
    """Labels every value of the graph; returns those of the stored tensors by name."""
    values: dict[fx.Node, Any] = {}
    leaves: dict[str, Value] = {}
    for node in trace.graph.nodes:
        if node.op in {"placeholder", "get_attr"}:
            values[node] = _label_source(node, trace, labels)
            if node.name in trace.stored and isinstance(values[node], Value):
                leaves[trace.stored[node.name]] = values[node]
        elif node.op == "output":
            for result in node.all_input_nodes:
                if isinstance(values[result], Value):
                    axes.fix_all(labels, values[result], "its channels are those of a graph output")
        else:
            values[node] = _label_call(node, values, labels)
        found = values.get(node, ())
        for value in found if isinstance(found, tuple) else (found,):
            if isinstance(value, Value):
                labels.observe(value)
    return leaves


def _label_source(node: fx.Node, trace: AtenTrace, labels: Labels) -> Value | None:
    """Labels a stored tensor, a constant or an input; None for what is no tensor."""
    if node.name in trace.constants:
        tensor = trace.constants[node.name]
        if not isinstance(tensor, Tensor):
            return None
        same = (axis for axis, size in enumerate(tensor.shape) if size > 1 and _is_uniform(tensor, axis))
        return Value(tuple(tensor.shape), (), frozenset(same), "it meets a constant that the model does not store")
    shape = tuple(node.meta["val"].shape)
    if node.name in trace.inputs:
        return Value(shape, origin=f"its channels are those of the input {trace.inputs[node.name]}")
    if not node.meta["val"].dtype.is_floating_point:
        return Value(shape, origin=f"it meets {trace.stored[node.name]}, which holds integers")
    groups = (Group((axis,), labels.allocate(size)) for axis, size in enumerate(shape) if size > 1)
    return Value(shape, tuple(groups))


def _is_uniform(tensor: Tensor, axis: int) -> bool:
    first = tensor.narrow(axis, 0, 1)
    return bool((tensor == first).all())


def _label_call(node: fx.Node, values: Mapping[fx.Node, Any], labels: Labels) -> Any:
    if node.target is getitem:
        return values[node.args[0]][node.args[1]]  # type: ignore[index] # the first is the node of a tuple
    given = torch.fx.node.map_aggregate(node.args, lambda entry: _resolve(entry, values))
    found = node.meta.get("val")
    results = [entry for entry in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(entry, Tensor)]
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable and _keeps_entries(node):
        return values[node.args[0]]  # type: ignore[index] # the first is a node
    if schema is not None and schema.is_mutable:
        raise RuntimeError(f"{node.target} changes a tensor in place")  # of which others may be views
    kind = schema.name.removeprefix("aten::") if schema is not None else str(node.target)
    named = {name: _resolve(entry, values) for name, entry in node.kwargs.items()}
    rest = [named.get(entry.name, entry.default_value) for entry in schema.arguments[len(given) :]] if schema else []
    shapes = tuple(tuple(result.shape) for result in results)
    call = OperatorCall(
        labels, kind, f"it passes {kind}, by which its order matters ({node.name})", [*given, *rest], shapes
    )
    if not results:  # a number, of which the trace holds the value
        keep_in_place(call)
        return None
    rule = find_rule(node.target) or keep_in_place
    result = rule(call)
    labelled = result if isinstance(result, tuple) else (result,)
    if tuple(value.shape for value in labelled) != shapes:
        raise RuntimeError(
            f"the rule of {kind} gives {[v.shape for v in labelled]}. Expected {shapes}. Please report this."
        )
    if not isinstance(found, (list, tuple)):
        return labelled[0]
    remaining = iter(labelled)
    return tuple(next(remaining) if isinstance(entry, Tensor) else None for entry in found)


def _keeps_entries(node: fx.Node) -> bool:
    """Whether a call gives only axes of one entry other strides, as torch's own pooling to one place does."""
    if node.target is not torch.ops.aten.as_strided_.default or not isinstance(node.args[0], fx.Node):
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    strides = zip(before.shape, before.stride(), after.stride(), strict=True) if before.shape == after.shape else ()
    return before.shape == after.shape and all(size == 1 or old == new for size, old, new in strides)


def _resolve(entry: Any, values: Mapping[fx.Node, Any]) -> Any:
    return values[entry] if isinstance(entry, fx.Node) else entry


def _find_columns(leaves: Mapping[str, Value], linear: Linear) -> Ids | None:
    """The label of each column of a layer's matrix [N, K]; None where columns are not entries of one stored axis."""
    try:
        whole, index = split_part_name(linear.weight, leaves)
    except KeyError:
        return None
    shift = 0 if index is None else 1  # of an expert, the first stored axis is gone
    for group in leaves[whole].groups:
        (axis,) = group.axes
        if axis < shift:
            continue
        sizes = [len(group.ids) if place == axis - shift else 1 for place in range(len(linear.layout.stored))]
        spread = np.broadcast_to(group.ids.reshape(sizes), linear.layout.stored)
        matrix = linear.layout.to_matrix(spread)
        if np.array_equal(matrix[:1].repeat(len(matrix), 0), matrix):
            columns: Ids = matrix[0]
            return columns
    return None


def _collect(leaves: Mapping[str, Value], classes: Classes, columns: Mapping[str, Ids]) -> Iterator[ChannelSpace]:
    """Gathers classes that are stored in the same places, equally often, into spaces."""
    stored = [(name, group.axes[0], classes.of[group.ids]) for name, value in leaves.items() for group in value.groups]
    key = np.zeros(len(classes.of), np.uint64)
    for number, (_, _, roots) in enumerate(stored):
        found, counts = np.unique(roots, return_counts=True)
        key[found] += mix(counts.astype(np.uint64), np.uint64(number))
    done: set[int] = set()
    for name, roots in columns.items():
        _, first = np.unique(roots, return_index=True)
        for root in roots[np.sort(first)]:
            if int(key[root]) in done:
                continue
            done.add(int(key[root]))
            members = roots[np.sort(first)]
            members = members[key[members] == key[root]]
            yield _make_space(name, members, stored, classes, columns)


def _make_space(
    name: str,
    members: Ids,
    stored: Sequence[tuple[str, int, Ids]],
    classes: Classes,
    columns: Mapping[str, Ids],
) -> ChannelSpace:
    """Makes a space of the classes `members`, in the order in which the layer `name` reads them."""
    places = tuple(
        StoredEntries(tensor, axis, entries, len(roots))
        for tensor, axis, roots in stored
        if (entries := _find_entries(roots, members)) is not None
    )
    read = {
        layer: entries for layer, roots in columns.items() if (entries := _find_entries(roots, members)) is not None
    }
    colours = classes.colours[members]
    blocks: list[Block] = []
    said = ""
    for colour in np.unique(colours):
        block = _make_block(read, np.flatnonzero(colours == colour))
        if isinstance(block, str):
            said = block
        elif len(block.groups) > 1:
            blocks.append(block)
    blocks.sort(key=lambda block: int(block.groups[0, 0]))
    reason = "" if blocks else said or _explain(members, classes)
    return ChannelSpace(name, len(members), tuple(blocks), places, tuple(read), reason)


def _explain(members: Ids, classes: Classes) -> str:
    """Tells why no channel of a space can come into another group of four."""
    if len(members) < SMALLEST:
        return f"it has only {len(members)} channels"
    largest = int(np.unique(classes.colours[members], return_counts=True)[1].max())
    if largest == 1:
        known = (classes.reasons[root] for root in members.tolist() if root in classes.reasons)
        return next(known, "operators tell all its channels apart")
    if largest < 2 * GROUP:
        return f"at most {largest} of its channels can change places with each other"
    return "no layer has four of its channels in one group"


def _find_entries(roots: Ids, members: Ids) -> Ids | None:
    """The entries of each class along an axis [classes, entries of each]; None where there are none."""
    order = np.argsort(members)
    place = np.searchsorted(members, roots, sorter=order).clip(max=len(members) - 1)
    channel = order[place]
    here = np.flatnonzero(members[channel] == roots)
    if not len(here):
        return None
    return here[np.argsort(channel[here], kind="stable")].reshape(len(members), -1)


def _make_block(read: Mapping[str, Ids], channels: Ids) -> Block | str:
    """Makes a block of channels that may change places, or tells why they cannot be divided into groups of four.

    Where each channel has whole groups of its own, as behind Flatten, its place does not matter to a layer. Channels
    that share a group with others than these stay where they are.
    """
    shared: Ids | None = None  # number of the group of each channel, the same in every layer that has groups of them
    columns: dict[str, Ids] = {}
    for layer, entries in read.items():
        mine = entries[channels]  # [channels, columns of each]
        numbers = mine // GROUP
        own = np.array_equal(np.unique(numbers, return_counts=True)[1], np.full(mine.size // GROUP, GROUP))
        if (
            own
            and mine.shape[1] % GROUP == 0
            and (numbers.reshape(-1, GROUP) == numbers.reshape(-1, GROUP)[:, :1]).all()
        ):
            continue
        normal = np.stack([_number_anew(column) for column in numbers.T], 1)
        if (normal != normal[:, :1]).any() or (shared is not None and not np.array_equal(shared, normal[:, 0])):
            return f"its channels do not lie side by side in {layer}"
        shared, columns[layer] = normal[:, 0], mine
    if shared is None:
        return Block(np.zeros((0, GROUP), np.int64), ())
    whole = np.flatnonzero(np.bincount(shared) == GROUP)
    order = np.argsort(shared, kind="stable")
    order = order[np.isin(shared[order], whole)].reshape(-1, GROUP)
    readers = tuple(Reader(layer, mine[order]) for layer, mine in columns.items())
    return Block(channels[order], readers)


def _number_anew(numbers: Ids) -> Ids:
    """Numbers groups by the first channel that is in each."""
    _, first, places = np.unique(numbers, return_index=True, return_inverse=True)
    renumbered: Ids = np.argsort(np.argsort(first))[places]
    return renumbered
