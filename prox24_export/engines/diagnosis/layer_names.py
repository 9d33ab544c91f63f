"""What TensorRT makes of the names of ONNX nodes: fused, decorated, renamed, or swallowed by a region."""

import re
from collections.abc import Iterable, Mapping

JOINTS = re.compile(r" \+ | \|\| ")  # fused with what follows; merged with what reads the same input
PROFILE = re.compile(r" \[profile \d+\]")
MYELIN = re.compile(r"_myl\d+_\d+$")
REGION = re.compile(r"\{ForeignNode\[(.*)\]\}")
SEPARATORS = re.compile(r"[\x1e\x1f]|\\u001[ef]|\\x1[ef]|(?<=\])\s*(?=\[ONNX Layer: )")  # Cask's, Myelin's, text form
ONNX_LAYER = re.compile(r"\s*\[ONNX Layer: (.*?)\]?\s*$", re.DOTALL)


def parts(name: str) -> tuple[str, ...]:
    """The names that a layer's name is made of, without TensorRT's decoration.

    >>> parts("Conv_7 + Add_9 + Relu_10")
    ('Conv_7', 'Add_9', 'Relu_10')
    >>> parts("node_linear [profile 1]_myl13_2")
    ('node_linear',)
    """
    plain = PROFILE.sub("", name).strip()
    without = MYELIN.sub("", plain)
    if without != plain:  # Myelin joins without spaces
        return tuple(part.strip() for part in without.split("+") if part.strip())
    return tuple(part.strip() for part in JOINTS.split(plain) if part.strip())


def region_ends(name: str) -> tuple[str, ...]:
    """First and last layer of a Myelin region `{ForeignNode[first...last]}`; empty where it is none."""
    found = REGION.search(name)
    if found is None:
        return ()
    first, _, last = found.group(1).partition("...")
    return (first, last) if last else (first,)


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """Nodes that a layer's metadata names as `[ONNX Layer: NAME]`, whatever stands between them."""
    found = (ONNX_LAYER.match(token) for token in SEPARATORS.split(metadata))
    return tuple(dict.fromkeys(match.group(1) for match in found if match and match.group(1)))


def nodes_of(name: str, registered: Mapping[str, str]) -> tuple[str, ...]:
    """ONNX nodes that a layer's name stands for.

    Args:
        name: As log or inspector have it.
        registered: ONNX node of each layer of the parsed network, as the verbose log has it: a Gemm becomes two layers
            whose names can be those of other nodes, so that a name alone may mislead. Empty where it is not known.
    """
    return tuple(registered.get(part, part) for part in parts(name))


def mentions(node: str, names: Iterable[str], registered: Mapping[str, str]) -> str:
    """The first of `names` that stands for `node`; empty where none does."""
    return next((name for name in names if node in nodes_of(name, registered)), "")
