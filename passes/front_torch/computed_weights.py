"""Weights that a torch program computes from its parameters alone, as weight normalisation does: they stay dense."""

import math
from collections.abc import Container
from typing import Any

import torch
from torch import fx

from prox24_export.passes.graph.protocol import Reason, Skipped

RIGHT = 1  # place of the weight of a linear layer and of a convolution
PLACES = {"addmm": (2, 1), "mm": (1, 0), "matmul": (1, 0)}  # of the operands that may be the weight


def explain_operand(node: fx.Node, operator: str, stored: Container[str]) -> Reason:
    """Why a product has no weight: nodes compute it from what is stored, or it is an activation."""
    return Reason.NOT_CONSTANT if _find_computed(node, operator, stored) is None else Reason.COMPUTED_IN_PROGRAM


def skip_computed(node: fx.Node, operator: str, label: str, stored: Container[str]) -> Skipped:
    """Makes the row of a product whose weight is computed.

    Args:
        node: The product.
        operator: The name of its operator.
        label: The name of the layer.
        stored: Names of the placeholders of all parameters, buffers and constants.
    """
    place = _find_computed(node, operator, stored)
    if place is None:
        raise AssertionError(f"{label} has no operand that is computed from constants")
    weight: Any = node.args[place]
    k, n = _find_dimensions(weight, operator, is_left=place == PLACES.get(operator, (RIGHT, 0))[-1])
    name = str(getattr(weight.target, "__name__", weight.target)).split(".", maxsplit=1)[0]
    return Skipped(label, operator, None, k, n, 0, Reason.COMPUTED_IN_PROGRAM, name)


def _find_computed(node: fx.Node, operator: str, stored: Container[str]) -> int | None:
    """Finds the place of the operand that nodes compute from what is stored; None where there is none."""
    places = (place for place in PLACES.get(operator, (RIGHT,)) if place < len(node.args))
    return next((place for place in places if _is_computed(node.args[place], stored)), None)


def _is_computed(value: Any, stored: Container[str]) -> bool:
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    seen: set[fx.Node] = set()
    pending = [value]
    while pending:
        node = pending.pop()
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if draws or (node.op == "placeholder" and node.name not in stored):
            return False
        seen.add(node)
        pending.extend(other for other in node.all_input_nodes if other not in seen)
    return True


def _find_dimensions(weight: fx.Node, operator: str, *, is_left: bool) -> tuple[int | None, int | None]:
    """Finds (K, N) of a product with a computed weight; None where the weight is no matrix and no kernel."""
    value = weight.meta.get("val")
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
    if len(shape) < 2 or not all(isinstance(size, int) for size in shape):  # noqa: PLR2004 - a matrix
        return None, None
    if operator == "linear" or operator.startswith("conv"):
        return math.prod(shape[1:]), shape[0]
    return (shape[-1], shape[-2]) if is_left else (shape[-2], shape[-1])
