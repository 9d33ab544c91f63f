"""Cuts a network into segments, at points where one value carries everything that is still read."""

import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes between two cuts, as a module of their own.

    Attributes:
        module: The module. It takes `inputs` and returns the values at `cuts`; in the last segment the outputs of the
            network come before them. It shares the parameters of the network.
        inputs: Names of the values that it reads: the one at the cut before it, and values that no weight changes.
        cuts: Names of the values that it returns, in order. The next segment reads the last of them. The last segment
            may have none.
        weights: Names of the weights that it reads, among those that were asked for.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    cuts: tuple[str, ...]
    weights: tuple[str, ...]


def find_cuts(module: fx.GraphModule, weights: Collection[str]) -> tuple[fx.Node, ...]:
    """Finds the nodes behind which only one value is still read that changes with `weights`: the node's own.

    Of several such nodes with no weight between them the last is taken. A node that returns several values is no cut,
    as long as they stand together in a tuple. Values that depend on no weight (masks,
    positions, the output of the stem) are the same in both networks and no part of a cut. The end of the network is no
    cut.

    Args:
        module: The network, its nodes in topological order.
        weights: Names of the parameters, and of the buffers, that change.

    Returns:
        The nodes in topological order.
    """
    order = list(module.graph.nodes)
    place = {node: index for index, node in enumerate(order)}
    moving = _find_moving(module, weights)
    last = {node: max((place[user] for user in node.users), default=-1) for node in moving}
    alive: set[fx.Node] = set()
    found: list[fx.Node] = []
    fresh = False  # whether a weight was read since the last cut
    for index, node in enumerate(order):
        if node not in moving or node.op == "get_attr":
            continue
        fresh = fresh or any(read.op == "get_attr" and read.target in weights for read in node.all_input_nodes)
        alive = {value for value in (*alive, node) if last[value] > index}
        if alive == {node} and any(user.op != "output" for user in node.users) and not _returns_several(node):
            if fresh or not found:
                found.append(node)
            else:
                found[-1] = node
            fresh = False
    while found and not _reads_weight_after(order, place[found[-1]], weights):
        found.pop()
    return tuple(found)


def find_segments(module: fx.GraphModule, weights: Collection[str]) -> list[Segment]:
    """Divides a network into segments.

    Each repetition in the longest run of like pieces is a segment, such as a transformer block. Pieces before and after
    that run join its first and its last segment where they have no more weights than a repetition. Without such a run
    every piece between two cuts is a segment.

    Args:
        module: The network, its nodes in topological order.
        weights: Names of the parameters, and of the buffers, that change.
    """
    at = find_cuts(module, weights)
    pieces = list(_split_at(module, at))
    groups = _group([_describe_piece(module, piece, weights) for piece in pieces])
    segments, start = [], 0
    for size in groups:
        inner = at[start : start + size]
        nodes = [node for piece in pieces[start : start + size] for node in piece]
        segments.append(_extract_segment(module, nodes, inner, weights))
        start += size
    return segments


def add_outputs(module: fx.GraphModule, values: Sequence[fx.Node]) -> fx.GraphModule:
    """Makes a copy of a module that returns the values of some nodes after its own outputs. Parameters are shared."""
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output((*(env[result] for result in node.args[0]), *(env[value] for value in values)))
        else:
            env[node] = graph.node_copy(node, env.__getitem__)
    return fx.GraphModule(module, graph)


def extract_shared_values(module: fx.GraphModule, segments: Sequence[Segment]) -> fx.GraphModule:
    """Makes a module that computes, from the network's inputs, the values that segments read and no weight changes.

    Its outputs are in the order of `find_shared_names`.
    """
    wanted = set(find_shared_names(segments))
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            env[node] = graph.node_copy(node, env.__getitem__)
    by_name = {node.name: copy for node, copy in env.items() if node.name in wanted}
    graph.output(tuple(by_name[name] for name in find_shared_names(segments)))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def find_shared_names(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Finds the names of the values that segments read and none of them returns, each once."""
    made = {name for segment in segments for name in segment.cuts}
    return tuple(dict.fromkeys(name for segment in segments for name in segment.inputs if name not in made))


def _find_moving(module: fx.GraphModule, weights: Collection[str]) -> frozenset[fx.Node]:
    """Finds the nodes whose value changes with one of `weights`."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        named = node.op == "get_attr" and node.target in weights
        if node.op != "output" and (named or any(read in found for read in node.all_input_nodes)):
            found.add(node)
    return frozenset(found)


def _returns_several(node: fx.Node) -> bool:
    return any(user.target is operator.getitem for user in node.users)


def _reads_weight_after(order: Sequence[fx.Node], start: int, weights: Collection[str]) -> bool:
    later = (read for node in order[start + 1 :] for read in node.all_input_nodes)
    return any(read.op == "get_attr" and read.target in weights for read in later)


def _split_at(module: fx.GraphModule, at: Sequence[fx.Node]) -> Iterator[list[fx.Node]]:
    """Splits the calls of a network into the pieces between cuts; the last piece ends with the network."""
    ends, piece = set(at), []
    for node in module.graph.nodes:
        if node.op in {"placeholder", "get_attr", "output"}:
            continue
        piece.append(node)
        if node in ends:
            yield piece
            piece = []
    yield piece


def _describe_piece(module: fx.GraphModule, piece: Sequence[fx.Node], weights: Collection[str]) -> tuple[str, ...]:
    """Describes the calls of a piece that read a weight, each by its function and the weight's shape."""
    return tuple(
        f"{node.target} {tuple(operator.attrgetter(str(read.target))(module).shape)}"
        for node in piece
        for read in node.all_input_nodes
        if read.op == "get_attr" and read.target in weights
    )


def _group(signatures: Sequence[tuple[str, ...]]) -> list[int]:
    """Decides how many consecutive pieces each segment takes."""
    count = len(signatures)
    start, period, repeats = max(
        (
            (start, period, _count_repeats(signatures, start, period))
            for period in range(1, count // 2 + 1)
            for start in range(count - period)
        ),
        key=lambda run: (run[1] * run[2] if run[2] > 1 else 0, -run[1], -run[0]),
        default=(0, 1, 1),
    )
    before, after = start, count - start - period * repeats
    if repeats == 1 or 2 * period * repeats < count:
        return [1] * count
    groups = [period] * repeats
    block = _count_weights(signatures[start : start + period])
    if _count_weights(signatures[:before]) <= block:
        groups[0] += before
    else:
        groups = [1] * before + groups
    if _count_weights(signatures[count - after :]) <= block:
        groups[-1] += after
    else:
        groups += [1] * after
    return groups


def _count_weights(signatures: Sequence[tuple[str, ...]]) -> int:
    return sum(len(signature) for signature in signatures)


def _count_repeats(signatures: Sequence[tuple[str, ...]], start: int, period: int) -> int:
    first, repeats = signatures[start : start + period], 1
    while signatures[start + repeats * period : start + (repeats + 1) * period] == first:
        repeats += 1
    return repeats


def _extract_segment(
    module: fx.GraphModule, nodes: Sequence[fx.Node], inner: Sequence[fx.Node], weights: Collection[str]
) -> Segment:
    """Makes a segment of nodes. Values that they read from outside become inputs; parameters stay attributes."""
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    inside, inputs, used = set(nodes), [], []
    outputs = next(node for node in module.graph.nodes if node.op == "output")
    is_last = any(result in inside for result in outputs.all_input_nodes)
    outside = [read for node in nodes for read in node.all_input_nodes if read not in inside]
    outside += [result for result in outputs.all_input_nodes if is_last and result not in inside]
    outside = list(dict.fromkeys(outside))
    for node in outside:
        if node.op != "get_attr":
            env[node] = graph.placeholder(node.name)
            inputs.append(node.name)
    for node in outside:
        if node.op == "get_attr":
            env[node] = graph.get_attr(str(node.target))
            used += [str(node.target)] if node.target in weights else []
    for node in nodes:
        env[node] = graph.node_copy(node, env.__getitem__)
    results = tuple(env[result] for result in outputs.args[0]) if is_last else ()
    graph.output((*results, *(env[value] for value in inner)))
    part = fx.GraphModule(module, graph)
    return Segment(part, tuple(inputs), tuple(value.name for value in inner), tuple(dict.fromkeys(used)))
