"""Which errors of torch say that a GPU has no memory left."""

import pytest
import torch

from prox24_export.facts.out_of_memory import SIGNS, is_out_of_memory


@pytest.mark.parametrize("sign", SIGNS)
def test_the_words_of_a_library_say_so(sign: str) -> None:
    assert is_out_of_memory(RuntimeError(f"{sign} when calling `create(handle)`"))
    assert not is_out_of_memory(ValueError(sign))


def test_other_errors_do_not() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(MemoryError())
