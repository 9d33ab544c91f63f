"""Which operators and containers a `.pt2` file may name: torch finds them by walking through its modules.

A name that is found there need not be an operator: `torch.serialization.os.system` is one, too.
"""

import json
import re
from functools import cache
from typing import Any

import torch

OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", re.ASCII)
NAMESPACES = frozenset({"aten", "prims", "quantized_decomposed", "onnx", "torchvision"})
TOUCH_FILES = frozenset({"from_file", "save", "load"})
PRINT = frozenset({"_print", "warn"})
UNCHECKED = re.compile(
    r"(?:.*_)?(?:sparse|nested|jagged|coalesced?|coo|csr|csc|bsr|bsc|cslt|backward|set|resize|segment_reduce|"
    r"reshape_alias|mkldnn|fbgemm|miopen|cudnn_rnn|sobol|ctc|test|foobar)(?:_.*)?|.*unsafe.*",
    re.ASCII,
)
"""Operators whose kernels take sizes or indices out of tensors, or memory of other layouts, without a check.

They belong to layouts that programs of dense layers do not have, to training, to libraries behind other operators, or
to torch's own tests. A word of the name tells each.
"""
CHECKED = frozenset(
    {
        *("unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "_unsafe_view", "_unsafe_index"),
        *("_unsafe_index_put", "_unsafe_masked_index", "_unsafe_masked_index_put_accumulate"),
    }
)
"""Operators that are called unsafe for what gradients make of them, or that check their indices all the same."""

HIGHER_ORDER = (
    *("cond", "while_loop", "map_impl", "scan", "associative_scan", "wrap_with_set_grad_enabled"),
    *("wrap_with_autocast", "out_dtype", "auto_functionalized", "auto_functionalized_v2", "flex_attention"),
    *("hints_wrapper", "invoke_subgraph", "strict_mode"),
)
ARITHMETIC = (
    *("add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lshift", "lt", "mod", "mul", "ne", "neg"),
    *("or_", "pos", "pow", "rshift", "sub", "truediv"),
)
SIZES = ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "_sym_sqrt")
BATCHING = ("_add_batch_dim", "_remove_batch_dim", "_vmap_increment_nesting", "_vmap_decrement_nesting")
FUNCTIONS = frozenset(
    {
        *(f"torch.ops.higher_order.{name}" for name in HIGHER_ORDER),
        *(f"_operator.{name}" for name in ARITHMETIC),
        *(f"torch.{name}" for name in SIZES),
        *(f"torch._functorch.predispatch.{name}" for name in (*BATCHING, "lazy_load_decompositions")),
        "math.trunc",
    }
)
CONTAINERS = frozenset(
    {
        *("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"),
        *("torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict"),
    }
)
MODEL_OUTPUTS = "transformers.modeling_outputs"
MODEL_OUTPUT = re.compile(rf"{re.escape(MODEL_OUTPUTS)}\.\w+", re.ASCII)


@cache
def is_operator(target: str) -> bool:
    """Whether a name is that of an operator on tensors and sizes that `torch.export` writes, and installed here."""
    if target in FUNCTIONS:
        return True
    parts = OPERATOR.fullmatch(target)
    if parts is None:
        return False
    namespace, name, overload = parts.groups()
    if namespace not in NAMESPACES or name in TOUCH_FILES or name in PRINT:
        return False
    if UNCHECKED.fullmatch(name) and name not in CHECKED:
        return False
    qualified = f"{namespace}::{name}" + ("" if overload == "default" else f".{overload}")
    try:  # TorchScript's own functions have a name too, and no kernel
        return bool(torch._C._dispatch_has_kernel(qualified))  # noqa: SLF001 - there is no public question for this
    except RuntimeError:
        return False


@cache
def is_container(text: str) -> bool:
    """Whether a text is the JSON of nested tuples, lists, dictionaries and outputs of transformers, and no more.

    Other kinds, and enumerations as keys, have torch import modules by their names.
    """
    try:
        protocol, tree = json.loads(text)
        return protocol == 1 and _is_plain(tree)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def find_modules(text: str) -> frozenset[str]:
    """Finds the modules that must be imported before torch knows the containers named in a text."""
    return frozenset({MODEL_OUTPUTS} if MODEL_OUTPUTS in text else ())


def _is_plain(tree: Any) -> bool:
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if not isinstance(children, list) or not all(map(_is_plain, children)):
        return False
    if kind is None:
        return context is None and not children
    known = isinstance(kind, str) and (kind in CONTAINERS or MODEL_OUTPUT.fullmatch(kind) is not None)
    return known and isinstance(context, str) and _are_keys(json.loads(context))


def _are_keys(keys: Any) -> bool:
    """Whether these are keys of a dictionary, or none; torch writes them into code."""
    if isinstance(keys, list):
        return all(map(_are_keys, keys)) if all(isinstance(key, list) for key in keys) else all(map(_is_key, keys))
    return keys is None


def _is_key(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isidentifier())
