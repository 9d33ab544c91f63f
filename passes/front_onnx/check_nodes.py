"""Expects of every node of a standard operator what the operator's schema says, on which all readers rely.

ONNX Runtime refuses whatever is refused here; but a model is looked at before it is run, or without being run.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache

import onnx

from prox24_export.errors import InputError
from prox24_export.passes.front_onnx.constants import ONNX_DOMAINS

NEWEST = 1 << 16  # version that no domain will reach; the library takes no larger numbers than 32 bits
AGAIN = "Export the model again with a current exporter."
MESSAGES = {  # the fields that may be absent whatever the type of an attribute says
    onnx.AttributeProto.TENSOR: "t",
    onnx.AttributeProto.GRAPH: "g",
    onnx.AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    onnx.AttributeProto.TYPE_PROTO: "tp",
}


def check_nodes(model: onnx.ModelProto, name: str) -> None:
    """Expects nodes of standard operators to have as many inputs and outputs, and attributes of the types, as they may.

    Args:
        model: The model; its functions and the bodies of nodes are looked at too.
        name: What messages call it.

    Raises:
        InputError: A node has too few or too many inputs or outputs, an attribute of another type or without its value,
            or one that it takes from a function without being in one.
    """
    own = {(function.domain, function.name, function.overload) for function in model.functions}
    versions = _read_versions(model.opset_import)
    for nodes, opsets, is_function in [
        (model.graph.node, versions, False),
        *((function.node, versions | _read_versions(function.opset_import), True) for function in model.functions),
        *(
            (graph.node, versions, False)
            for info in model.training_info
            for graph in (info.initialization, info.algorithm)
        ),
    ]:
        for node in _walk(nodes):
            _expect_values(node, name, is_function=is_function)
            domain = _shorten(node.domain)
            if node.domain in ONNX_DOMAINS and (domain, node.op_type, node.overload) not in own:
                schema = _find_schema(node.op_type, opsets.get(domain, 0), domain)
                if schema is not None:
                    _check_node(node, schema, name)


def _read_versions(opsets: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_shorten(opset.domain): max(0, min(opset.version, NEWEST)) for opset in opsets}


def _shorten(domain: str) -> str:
    """Returns the domain of a node as onnx_ir has it, by which it finds functions."""
    return "" if domain == "ai.onnx" else domain


@cache
def _find_schema(op: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """Finds the schema of an operator in a version, or the newest one for an unknown version."""
    for given in ((op, version, domain), (op, domain)):
        with suppress(onnx.defs.SchemaError):
            return onnx.defs.get_schema(*given)
    return None


def _walk(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yields nodes and those in their bodies."""
    pending = [nodes]
    while pending:
        for node in pending.pop():
            yield node
            for attribute in node.attribute:
                pending += [body.node for body in attribute.graphs]
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)


def _expect_values(node: onnx.NodeProto, name: str, *, is_function: bool) -> None:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if not is_function:
                raise InputError(
                    f"{_describe(node, name)} takes its attribute {attribute.name!r} from a function, and is in none. "
                    f"{AGAIN}"
                )
            continue
        field = MESSAGES.get(attribute.type)
        if field is not None and not attribute.HasField(field):
            raise InputError(
                f"{_describe(node, name)} has the attribute {attribute.name!r} without a value. Expected one of the "
                f"type {onnx.AttributeProto.AttributeType.Name(attribute.type)}. {AGAIN}"
            )


def _describe(node: onnx.NodeProto, name: str) -> str:
    return f"node {node.name or 'without a name'} ({node.op_type}) of {name}"


def _check_node(node: onnx.NodeProto, schema: onnx.defs.OpSchema, name: str) -> None:
    who = _describe(node, name)
    for what, values, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(values) <= most:
            some = f"{least}" if least == most else f"{least} to {most}" if most < len(values) else f"at least {least}"
            raise InputError(f"{who} has {len(values)} {what}{'s' * (len(values) != 1)}. Expected {some}. {AGAIN}")
    for attribute in node.attribute:
        described = schema.attributes.get(attribute.name)
        if described is None:
            continue
        wanted = str(described.type).rpartition(".")[2]
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if kind != wanted:
            raise InputError(f"{who} has the attribute {attribute.name!r} as {kind}. Expected {wanted}. {AGAIN}")
