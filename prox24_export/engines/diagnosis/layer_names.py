"""What TensorRT makes of the names of ONNX nodes: fused, decorated, renamed, or swallowed by a region."""

import re
from collections.abc import Iterable, Mapping

JOINTS = re.compile(r" \+ | \|\| ")  # fused with what follows; merged with what reads the same input
PROFILE = re.compile(r" \[profile \d+\]")
MYELIN = re.compile(r"_myl\d+_\d+$")
REGION = re.compile(r"\{ForeignNode\[(.*)\]\}")
# Cask's, Myelin's, both as text, and none between two names.
SEPARATORS = re.compile(r"[\x1e\x1f]|\\u001[ef]|\\x1[ef]|(?<=[\]\w])\s*(?=\[ONNX Layer: )")
ONNX_LAYER = "[ONNX Layer: "
END = re.compile(r"\](?:__\w+)?$")  # `[ONNX Layer: conv27]__gemm_from_conv1x1`: what became of a node stands behind it


def split_name(name: str) -> tuple[str, ...]:
    """Splits a layer's name into the names that it is made of, without TensorRT's decoration.

    `Conv_7 + Add_9 + Relu_10` is made of three; `node_linear [profile 1]_myl13_2` is `node_linear` alone.
    """
    plain = PROFILE.sub("", name).strip()
    without = MYELIN.sub("", plain)
    if without != plain:  # Myelin joins without spaces
        return tuple(part.strip() for part in without.split("+") if part.strip())
    return tuple(part.strip() for part in JOINTS.split(plain) if part.strip())


def find_region_ends(name: str) -> tuple[str, ...]:
    """Finds the first and last layer of a Myelin region `{ForeignNode[first...last]}`; none for any other name."""
    found = REGION.search(name)
    if found is None:
        return ()
    first, _, last = found.group(1).partition("...")
    return (first, last) if last else (first,)


def read_onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Reads the nodes that a layer's metadata names as `[ONNX Layer: NAME]`, whatever stands between or behind them."""
    tokens = (token.strip() for token in SEPARATORS.split(metadata))
    found = (END.sub("", token.removeprefix(ONNX_LAYER)) for token in tokens if token.startswith(ONNX_LAYER))
    return tuple(dict.fromkeys(filter(None, found)))


def find_nodes(name: str, registered: Mapping[str, str]) -> tuple[str, ...]:
    """Finds the ONNX nodes that a layer's name stands for.

    Args:
        name: The name as log or inspector have it.
        registered: The ONNX node of each layer of the parsed network, as the verbose log has it; empty where it is not
            known. A name alone may mislead: a Gemm becomes two layers whose names can be those of other nodes.
    """
    return tuple(registered.get(part, part) for part in split_name(name))


def find_mention(node: str, names: Iterable[str], registered: Mapping[str, str]) -> str:
    """Finds the first of `names` that stands for `node`; the result is empty where none does."""
    return next((name for name in names if node in find_nodes(name, registered)), "")
