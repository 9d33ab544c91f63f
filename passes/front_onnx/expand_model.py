"""A copy of a model without functions and branches: what a call of it computes stands in the main graph.

Such a copy is only looked at, to count what runs. The file keeps its functions and branches.
"""

from collections.abc import Iterable, Iterator, Mapping

import onnx
import onnx.inliner

from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS

NodeKey = tuple[str, str, tuple[str, ...]]


def identify(node: onnx.NodeProto) -> NodeKey:
    """Identifies a node of the main graph by what it is and what it computes."""
    return node.domain, node.op_type, tuple(node.output)


def inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Makes a copy with the nodes of model-local functions in place of the calls.

    A function stays where the library cannot inline it, as with another opset than that of the model.
    """
    if not proto.functions:
        return proto
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(proto)
    return inlined


def list_conditions(proto: onnx.ModelProto) -> list[str]:
    """Lists the names of the values that decide the branches of the main graph, each once."""
    return list(dict.fromkeys(node.input[0] for node in proto.graph.node if _is_if(node)))


def inline_branches(proto: onnx.ModelProto, conditions: Mapping[str, bool]) -> onnx.ModelProto:
    """Makes a copy with the nodes of the branches that run in place of the main graph's Ifs.

    Args:
        proto: The model.
        conditions: The values that decide, by name.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    for node in proto.graph.node:
        if _is_if(node):
            _add_branch(copy.graph, node, condition=conditions[node.input[0]])
        else:
            copy.graph.node.append(node)
    return copy


def name_nodes_anew(proto: onnx.ModelProto, names: Mapping[NodeKey, str]) -> None:
    """Gives nodes that the model had before the names of then, and takes the names of all others."""
    for node in proto.graph.node:
        _clear_names(node)
        node.name = names.get(identify(node), "")


def _is_if(node: onnx.NodeProto) -> bool:
    return node.op_type == "If" and node.domain in ONNX_DOMAINS


def _add_branch(graph: onnx.GraphProto, node: onnx.NodeProto, *, condition: bool) -> None:
    wanted = "then_branch" if condition else "else_branch"
    branch = onnx.GraphProto()
    branch.CopyFrom(next(attribute.g for attribute in node.attribute if attribute.name == wanted))
    place = next(filter(None, node.output), "")
    names = {name: f"inside {place}: {name}" for name in _list_defined(branch)}
    computed = {name for inner in branch.node for name in inner.output}
    for inner, outer in zip(branch.output, node.output, strict=True):
        if outer and inner.name in computed:
            names[inner.name] = outer
    _rename(branch, names)
    graph.initializer.extend(branch.initializer)
    graph.sparse_initializer.extend(branch.sparse_initializer)
    graph.node.extend(branch.node)
    for inner, outer in zip(branch.output, node.output, strict=True):
        if outer and inner.name != outer:  # a tensor that the branch stores
            graph.node.append(onnx.helper.make_node("Identity", [inner.name], [outer]))


def _list_defined(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Renames values of a graph, and where the bodies in it read them."""
    for named in (*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer), *graph.output):
        named.name = names.get(named.name, named.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in _list_bodies(node):
            own = set(_list_defined(body))
            _rename(body, {name: new for name, new in names.items() if name not in own})


def _list_bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _clear_names(node: onnx.NodeProto) -> None:
    node.name = ""
    for body in _list_bodies(node):
        for inner in body.node:
            _clear_names(inner)
