"""Operators that a program may call: those of layers, and none that reads or writes where no tensor is."""

import pytest
import torch

from prox24_export.models.program_targets import is_operator

REFUSED = """
    _sparse_coo_tensor_unsafe _sparse_csr_tensor_unsafe _convert_indices_from_csr_to_coo _to_sparse sparse_mask
    sparse_resize_ _nested_view_from_buffer _nested_view_from_jagged _coalesced_ set_.source_Storage resize_ resize_as_
    _resize_output_ segment_reduce _reshape_alias _embedding_bag_backward _sobol_engine_draw _cslt_compress _foobar
    _test_check_tensor fbgemm_linear_int8_weight mkldnn_linear from_file _cudnn_rnn _jagged_to_padded_dense_forward
"""
TAKEN = """
    linear addmm mm bmm.default convolution relu _softmax native_layer_norm embedding gather index.Tensor index_put
    scatter_add as_strided view reshape _unsafe_view _unsafe_index.Tensor unsafe_split.Tensor split_with_sizes
    scaled_dot_product_attention lstm.input gru.input lift_fresh_copy _to_copy to_dense upsample_nearest2d.vec
    grid_sampler topk sort masked_fill.Scalar _embedding_bag_forward_only unsqueeze _local_scalar_dense
"""


def is_taken(name: str) -> bool:
    return is_operator(f"torch.ops.aten.{name}" if "." in name else f"torch.ops.aten.{name}.default")


@pytest.mark.parametrize("name", REFUSED.split())
def test_operators_that_trust_what_they_are_given_are_refused(name: str) -> None:
    assert hasattr(torch.ops.aten, name.partition(".")[0])
    assert not is_taken(name)


@pytest.mark.parametrize("name", TAKEN.split())
def test_operators_of_layers_are_taken(name: str) -> None:
    assert is_taken(name)
