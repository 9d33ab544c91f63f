"""ONNX attention operators, as torch functions."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor

from prox24_export.passes.onnx_to_fx.table import Unsupported, make_membership_test, operator

HEADS_IN_ONE_AXIS = 3  # rank of [N, positions, heads · size]


@operator(
    *("Attention",),
    only={
        "left_window_size": make_membership_test(-1),
        "qk_matmul_output_mode": make_membership_test(0),
        "right_window_size": make_membership_test(-1),
        "softmax_precision": make_membership_test(None, torch.float32),
    },
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Computes softmax(q·kᵀ·scale + mask)·v, without a cache.

    Values are [N, heads, positions, size], or [N, positions, heads · size] with all heads in one axis.
    """
    joined = q.dim() == HEADS_IN_ONE_AXIS
    query, key, value = _split(q, q_num_heads), _split(k, kv_num_heads), _split(v, kv_num_heads)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias = _bias(query, key.shape[2], mask, is_causal=bool(is_causal))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if softcap:
        scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * factor / softcap)
        y = F.softmax(scores if bias is None else scores + bias, -1) @ value
    else:
        y = F.scaled_dot_product_attention(query, key, value, bias, scale=factor)
    return y.transpose(1, 2).flatten(2) if joined else y


@operator("RotaryEmbedding", fixed=[3])
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotates pairs of entries of every head by angles that depend on their position."""
    joined = x.dim() == HEADS_IN_ONE_AXIS
    heads = _split(x, num_heads)
    size = rotary_embedding_dim or heads.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    if positions is not None:
        cos, sin = cos[positions.long()], sin[positions.long()]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = cos * a - sin * b, sin * a + cos * b
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).flatten(2) if joined else y


def _split(x: Tensor, heads: int | None) -> Tensor:
    """Gives a value the shape [N, heads, positions, size]."""
    if x.dim() != HEADS_IN_ONE_AXIS:
        return x
    if not heads:
        raise Unsupported("an unknown number of heads")
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(query: Tensor, keys: int, mask: Tensor | None, *, is_causal: bool) -> Tensor | None:
    """The tensor that is added to the scores: −∞ where a key is hidden. None where nothing is added."""
    nothing = query.new_zeros(())
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = torch.where(F.pad(mask, (0, missing)), nothing, -math.inf)
        else:
            mask = F.pad(mask, (0, missing), value=-math.inf)
    if not is_causal:
        return mask
    seen = torch.ones(query.shape[2], keys, dtype=torch.bool, device=query.device).tril()
    causal = torch.where(seen, nothing, -math.inf)
    return causal if mask is None else causal + mask
