"""Whether an error says that a GPU has no memory left."""

import torch

SIGNS = (
    "CUDA error: out of memory",  # as where a kernel is loaded
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What CUDA and its libraries say; torch raises a plain `RuntimeError` for them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that a GPU has no memory left, in its own type or in the words of a library."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
