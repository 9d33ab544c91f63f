"""Makes an exported program a plain module, with its stored tensors as parameters and tensors as inputs and outputs."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument

from prox24_export.passes.front_torch.trace import identify_memory
from prox24_export.passes.graph.differentiable import Differentiable


def make_flat_module(program: ExportedProgram) -> Differentiable:
    """Makes a program a module with its own parameters. Tied parameters become one, as the program stores them.

    Arguments that were fixed when the program was traced are left out. So are assertions on types and devices, because
    they would not let the module move to another device.
    """
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    stored |= signature.inputs_to_lifted_tensor_constants
    fixed = {spec.arg.name: spec.arg.value for spec in signature.input_specs if isinstance(spec.arg, ConstantArgument)}
    root, graph = nn.Module(), fx.Graph()
    places: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    env: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            name = stored[node.name]
            tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
            names[name] = _register(
                root, node.name, tensor, places, trainable=node.name in signature.inputs_to_parameters
            )
            env[node] = graph.get_attr(names[name])
        elif node.op == "placeholder":
            env[node] = fixed[node.name] if node.name in fixed else _make_placeholder(graph, node)
        elif node.op == "get_attr":
            setattr(root, str(node.target), getattr(program.graph_module, str(node.target)))
            env[node] = graph.get_attr(str(node.target))
        elif node.op == "output":
            results = {result.name: env[result] for result in node.all_input_nodes}
            graph.output(tuple(results[name] for name in signature.user_outputs if name in results))
        elif "_assert" not in str(node.target):
            env[node] = graph.node_copy(node, env.__getitem__)
            if node.target is torch.ops.aten.copy.default:
                env[node].target = copied
    graph.eliminate_dead_code()
    parameters = dict(root.named_parameters())
    trained = {name: at for name, at in names.items() if at in parameters}
    buffers = {name: at for name, at in names.items() if at not in parameters and name in program.state_dict}
    return Differentiable(fx.GraphModule(root, graph), trained, buffers)


def copied(destination: Tensor, source: Tensor, *_: object, **_keywords: object) -> Tensor:
    """Returns what a tensor holds once another is copied into it, as `aten.copy` does, which has no gradient."""
    return source.to(destination).expand(destination.shape)


def _make_placeholder(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Makes an argument of the module, with the example that tells its type."""
    placeholder = graph.placeholder(node.name)
    placeholder.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return placeholder


def _register(
    root: nn.Module, name: str, tensor: Tensor, places: dict[tuple[Any, ...], str], *, trainable: bool
) -> str:
    """Registers a tensor, unless it is there under another name, and returns the name of its attribute."""
    place = identify_memory(tensor, name)
    if place in places:
        return places[place]
    places[place] = name
    if trainable and tensor.is_floating_point():
        root.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))
    else:
        root.register_buffer(name, tensor.detach())
    return name
