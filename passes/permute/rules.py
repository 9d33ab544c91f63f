"""What each operator of torch's ATen library does to labelled axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from prox24_export.passes.permute import axes
from prox24_export.passes.permute.labels import Group, Labels, Value

Labelled = Value | tuple[Value, ...]


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator.

    Attributes:
        labels: All labels of the graph.
        kind: The operator, without `aten.`.
        name: The operator and the node, for the user to read.
        arguments: Its positional arguments, with the `Value` of each tensor; those left out are filled in.
        shapes: The shape of each result.
    """

    labels: Labels
    kind: str
    name: str
    arguments: Sequence[Any]
    shapes: Sequence[tuple[int, ...]] = field(default=())

    def value(self, index: int = 0) -> Value:
        """The value of the argument at `index`."""
        value = self.arguments[index]
        if not isinstance(value, Value):
            raise TypeError(f"argument {index} of {self.name} must be a tensor. Got {value!r}.")
        return value

    def argument(self, index: int, default: Any = None) -> Any:
        """The argument at `index`; `default` where it is left out."""
        return self.arguments[index] if index < len(self.arguments) else default

    def axis(self, index: int, default: int = 0, *, extra: int = 0) -> int:
        """An argument that names an axis of the first one, which has `extra` more axes in the result."""
        return int(self.argument(index, default)) % max(1, len(self.value().shape) + extra)

    def tensors(self) -> list[Value]:
        """Every value among the arguments, also of those in lists."""
        found: list[Value] = []
        for argument in self.arguments:
            inner = argument if isinstance(argument, (list, tuple)) else [argument]
            found.extend(value for value in inner if isinstance(value, Value))
        return found


AxisRule = Callable[[OperatorCall], Labelled]
RULES: dict[str, AxisRule] = {}


def rule(*names: str) -> Callable[[AxisRule], AxisRule]:
    """Enters a function as the rule of some operators, by their names without `aten.`."""

    def enter(function: AxisRule) -> AxisRule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def find_rule(target: Any) -> AxisRule | None:
    """Finds the rule of an operator; None where it is not understood."""
    if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - what every call of ATen is
        return None
    name = target._schema.name.removeprefix("aten::")  # noqa: SLF001 - the name that documentation uses
    if name in RULES:
        return RULES[name]
    return apply_elementwise if torch.Tag.pointwise in target.tags else None


def keep_in_place(call: OperatorCall) -> Labelled:
    """The rule of what is not understood: no channel of what it reads may move."""
    for value in call.tensors():
        axes.fix_all(call.labels, value, call.name)
    results = tuple(Value(shape, origin=call.name) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


def apply_elementwise(call: OperatorCall) -> Value:
    """The rule of elementwise operators: axes meet as broadcasting lets them."""
    return axes.combine(call.labels, call.tensors(), call.name)


@rule("clone", "alias", "detach", "_to_copy", "contiguous", "lift_fresh_copy", "_conj", "positive", "dropout")
def _keep(call: OperatorCall) -> Value:
    return call.value()


@rule("full", "zeros", "ones", "scalar_tensor", "full_like", "zeros_like", "ones_like", "new_full", "new_zeros")
def _fill(call: OperatorCall) -> Value:
    (shape,) = call.shapes
    return Value(shape, uniform=frozenset(axis for axis, size in enumerate(shape) if size > 1))


@rule("arange", "eye", "linspace", "rand", "randn", "empty", "tril_indices")
def _count(call: OperatorCall) -> Value:
    return Value(call.shapes[0], origin=call.name)


@rule("mean", "sum", "amax", "amin", "var", "std", "prod", "any", "all", "logsumexp", "nansum", "max", "min")
def _reduce(call: OperatorCall) -> Labelled:
    value, wanted = call.value(), call.argument(1)
    if isinstance(wanted, Value):  # the larger one of two tensors
        return apply_elementwise(call)
    if len(call.shapes) > 1:  # the place of the largest entry depends on the order
        return keep_in_place(call)
    dims = range(len(value.shape)) if wanted is None or wanted == [] else wanted
    gone = {int(axis) % len(value.shape) for axis in ([dims] if isinstance(dims, int) else dims)}
    return axes.reduce(call.labels, value, gone, call.name, keep=len(call.shapes[0]) == len(value.shape))


@rule("var_mean")
def _reduce_twice(call: OperatorCall) -> Labelled:
    value = call.value()
    dims = [int(axis) % len(value.shape) for axis in call.argument(1) or range(len(value.shape))]
    keep = len(call.shapes[0]) == len(value.shape)
    result = axes.reduce(call.labels, value, dims, call.name, keep=keep)
    return result, result


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def _normalise_along(call: OperatorCall) -> Value:
    axes.stay_within(call.labels, call.value(), [call.axis(1)], call.name)
    return call.value()


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _normalise_last_axes(call: OperatorCall) -> Labelled:
    value = call.value()
    last = range(len(value.shape) - len(call.argument(1)), len(value.shape))
    axes.stay_within(call.labels, value, last, call.name)
    result = axes.combine(call.labels, call.tensors(), call.name)
    statistics = axes.reduce(call.labels, value, last, call.name, keep=True)
    return result if len(call.shapes) == 1 else (result, *[statistics] * (len(call.shapes) - 1))


@rule("native_group_norm")
def _normalise_groups(call: OperatorCall) -> Labelled:
    value, groups = call.value(), int(call.argument(6))
    size = value.shape[1] // groups
    for group in value.groups:
        if group.axes == (1,):
            call.labels.tell_apart(group.ids, group.coordinates((1,)) // size, call.name)
        else:
            axes.fix(call.labels, Value(value.shape, (group,)), range(len(value.shape)), call.name)
    shaped = [axes.insert_axes(tensor, range(1, len(value.shape) - 1)) for tensor in call.tensors()[1:]]
    return axes.combine(call.labels, [value, *shaped], call.name), *[
        Value(shape, origin=call.name) for shape in call.shapes[1:]
    ]


@rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm")
def _normalise_batch(call: OperatorCall) -> Labelled:
    value, *others = call.tensors()
    shaped = [axes.insert_axes(tensor, range(1, len(value.shape) - 1)) for tensor in others]
    result = axes.combine(call.labels, [value, *shaped], call.name)
    return result, *[Value(shape, origin=call.name) for shape in call.shapes[1:]]


@rule("mm", "bmm", "mv", "dot", "linear", "addmm", "baddbmm")
def _multiply(call: OperatorCall) -> Value:
    first = 1 if call.kind in {"addmm", "baddbmm"} else 0
    left, right = call.value(first), call.value(first + 1)
    if call.kind == "linear":
        right = axes.transpose(right, (1, 0))
    bias = call.value(0) if first else call.argument(2) if call.kind == "linear" else None
    # [..., m, k] × [..., k, n]: one elementwise product [..., m, k, n], and a sum over k
    rank = len(left.shape)
    is_vector = len(right.shape) == 1
    wide = left if is_vector else axes.insert_axes(left, [rank])
    if not is_vector and len(right.shape) == 3:  # noqa: PLR2004 - batch, k, n
        right = axes.insert_axes(right, [1])
    product = axes.combine(call.labels, [wide, right], call.name)
    result = axes.reduce(call.labels, product, [rank - 1], call.name)
    return result if bias is None else axes.combine(call.labels, [bias, result], call.name)


@rule("_grouped_mm", "grouped_mm", "transformers::grouped_mm_fallback")
def _multiply_by_expert(call: OperatorCall) -> Labelled:
    rows, weight = call.value(0), call.value(1)  # [rows, K] × [experts, K, N], by where each expert's rows end
    if (len(rows.shape), len(weight.shape)) != (2, 3):
        return keep_in_place(call)
    of_one = axes.select(axes.unlabel(call.labels, weight, [0], call.name), 0, 0)
    product = axes.combine(call.labels, [axes.insert_axes(rows, [2]), of_one], call.name)
    return axes.reduce(call.labels, product, [1], call.name)


@rule("convolution", "_convolution")
def _convolve(call: OperatorCall) -> Labelled:
    value, weight, bias = call.value(0), call.value(1), call.argument(2)
    transposed, groups = bool(call.argument(6, default=False)), int(call.argument(8, 1))
    spatial = range(2, len(weight.shape))
    if len(value.shape) != len(weight.shape):  # without a batch
        return keep_in_place(call)
    value = axes.unlabel(call.labels, value, spatial, call.name)
    weight = axes.unlabel(call.labels, weight, spatial, call.name)
    k, n = (0, 1) if transposed else (1, 0)
    # by groups: [samples, groups, C_in, ·] × [groups, C_in, C_out], an elementwise product and a sum over C_in
    samples = value.shape[0]
    flat = axes.reshape(call.labels, _drop_last(value), (samples, groups, value.shape[1] // groups, 1), call.name)
    bare = _drop_last(weight)
    if groups == 1:
        bare = axes.insert_axes(axes.transpose(bare, (k, n)), [0])
    elif transposed:
        bare = axes.reshape(call.labels, bare, (groups, weight.shape[0] // groups, weight.shape[1]), call.name)
    else:
        by_group = (groups, weight.shape[0] // groups, weight.shape[1])
        bare = axes.transpose(axes.reshape(call.labels, bare, by_group, call.name), (0, 2, 1))
    product = axes.combine(call.labels, [flat, bare], call.name)
    summed = axes.reduce(call.labels, product, [2], call.name)
    (shape,) = call.shapes
    result = axes.reshape(call.labels, summed, shape[:2], call.name)
    if isinstance(bias, Value):
        result = axes.combine(call.labels, [result, bias], call.name)
    return Value(shape, result.groups, origin=call.name)


def _drop_last(value: Value) -> Value:
    """The first two axes of a value whose other axes have no labels."""
    return Value(value.shape[:2], value.groups, value.uniform & {0, 1}, value.origin)


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten")
def _reshape(call: OperatorCall) -> Value:
    return axes.reshape(call.labels, call.value(), call.shapes[0], call.name)


@rule("permute", "transpose", "t")
def _transpose(call: OperatorCall) -> Labelled:
    value, rank = call.value(), len(call.value().shape)
    if call.kind == "permute":
        return axes.transpose(value, [int(axis) % rank for axis in call.argument(1)])
    order = list(range(rank))
    if rank > 1:
        one, other = (0, 1) if call.kind == "t" else (call.axis(1), call.axis(2))
        order[one], order[other] = order[other], order[one]
    return axes.transpose(value, order)


@rule("unsqueeze")
def _unsqueeze(call: OperatorCall) -> Value:
    return axes.insert_axes(call.value(), [call.axis(1, extra=1)])


@rule("squeeze")
def _squeeze(call: OperatorCall) -> Value:
    value, wanted = call.value(), call.argument(1)
    dims = range(len(value.shape)) if wanted is None else [wanted] if isinstance(wanted, int) else wanted
    return axes.remove_axes(value, [axis % len(value.shape) for axis in dims])


@rule("expand", "broadcast_to")
def _expand(call: OperatorCall) -> Value:
    return axes.expand(call.value(), call.shapes[0])


@rule("slice")
def _slice(call: OperatorCall) -> Value:
    return axes.take(call.value(), call.axis(1), slice(call.argument(2), call.argument(3), call.argument(4, 1)))


@rule("select")
def _select(call: OperatorCall) -> Value:
    return axes.select(call.value(), call.axis(1), int(call.argument(2)))


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split")
def _split(call: OperatorCall) -> Labelled:
    axis, start, parts = call.axis(2), 0, []
    for shape in call.shapes:
        parts.append(axes.take(call.value(), axis, slice(start, start + shape[axis])))
        start += shape[axis]
    return tuple(parts)


@rule("unbind")
def _unbind(call: OperatorCall) -> Labelled:
    return tuple(axes.select(call.value(), call.axis(1), index) for index in range(len(call.shapes)))


@rule("cat", "concat")
def _concatenate(call: OperatorCall) -> Value:
    values = [value for value in call.tensors() if value.shape != (0,)]
    axis = int(call.argument(1, 0)) % len(values[0].shape)
    return axes.concatenate(call.labels, values, axis, call.name)


@rule("stack")
def _stack(call: OperatorCall) -> Value:
    axis = int(call.argument(1, 0)) % len(call.shapes[0])
    values = [axes.insert_axes(value, [axis]) for value in call.tensors()]
    return axes.concatenate(call.labels, values, axis, call.name)


@rule("embedding")
def _look_up(call: OperatorCall) -> Value:
    return _take_by_index(call, call.value(0), 0, 0, call.value(1))


@rule("index_select")
def _select_by_index(call: OperatorCall) -> Value:
    axis = call.axis(1)
    return _take_by_index(call, call.value(0), axis, axis, call.value(2))


@rule("index")
def _index(call: OperatorCall) -> Labelled:
    given = [place for place, index in enumerate(call.argument(1)) if index is not None]
    first, last = given[0], given[-1]
    if given != list(range(first, last + 1)) or any(not isinstance(call.argument(1)[place], Value) for place in given):
        return keep_in_place(call)
    indices = axes.combine(call.labels, [call.argument(1)[place] for place in given], call.name)
    result = _take_by_index(call, call.value(0), first, last, indices)
    return result if result.shape == call.shapes[0] else keep_in_place(call)  # a mask counts its entries that are set


def _take_by_index(call: OperatorCall, table: Value, first: int, last: int, index: Value) -> Value:
    """Labels entries that an array of places takes along the axes from `first` to `last`, which are kept in place."""
    axes.fix_all(call.labels, index, call.name)
    table = axes.unlabel(call.labels, table, range(first, last + 1), call.name)
    sizes = (*table.shape[:first], *index.shape, *table.shape[last + 1 :])
    moved = len(index.shape) - (last + 1 - first)
    renamed = [
        Group(tuple(axis + moved if axis > last else axis for axis in group.axes), group.ids) for group in table.groups
    ]
    return Value(sizes, tuple(renamed), origin=index.origin or call.name)


@rule("constant_pad_nd", "pad")
def _pad(call: OperatorCall) -> Value:
    value, widths = call.value(), call.argument(1)
    rank = len(value.shape)
    around = {rank - 1 - place // 2: tuple(widths[place : place + 2]) for place in range(0, len(widths), 2)}
    return axes.pad(call.labels, value, {axis: pair for axis, pair in around.items() if any(pair)}, call.name)


def _pass_windows(call: OperatorCall, spatial: int) -> Labelled:
    """The rule of pooling and of resizing, which treat every channel alike and move along the last axes."""
    value = call.value()
    rank = len(value.shape)
    value = axes.unlabel(call.labels, value, range(rank - spatial, rank), call.name)
    results = tuple(Value(shape, value.groups, origin=value.origin) for shape in call.shapes)
    return results[0] if len(results) == 1 else results


for _spatial in (1, 2, 3):
    _pools = [f"{kind}{_spatial}d" for kind in ("avg_pool", "max_pool", "adaptive_avg_pool", "_adaptive_avg_pool")]
    _pools += [f"max_pool{_spatial}d_with_indices", f"adaptive_max_pool{_spatial}d"]
    _sizes = ["upsample_nearest{}d", "_upsample_nearest_exact{}d", "reflection_pad{}d", "replication_pad{}d"]
    _pools += [name.format(_spatial) for name in _sizes]
    rule(*_pools)(partial(_pass_windows, spatial=_spatial))
rule("upsample_linear1d")(partial(_pass_windows, spatial=1))
rule("upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d")(partial(_pass_windows, spatial=2))
rule("upsample_trilinear3d")(partial(_pass_windows, spatial=3))


@rule("flip", "roll", "cumsum", "cumprod")
def _depend_on_order(call: OperatorCall) -> Value:
    value = call.value()
    given = call.argument(2 if call.kind == "roll" else 1)
    along = [given] if isinstance(given, int) else given or range(len(value.shape))
    return axes.unlabel(call.labels, value, [int(axis) % len(value.shape) for axis in along], call.name)
