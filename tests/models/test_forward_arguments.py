"""Which arguments of a module can be samples, and which of them is the main one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prox24_export.models.forward_arguments import find_main_inputs, list_parameters


class Module:
    def forward(  # type: ignore[no-untyped-def] # noqa: PLR0917 - as transformers has it
        self,
        plain,  # noqa: ANN001 - some modules are written so
        maybe: torch.Tensor | None = None,
        images: "torch.FloatTensor | list[torch.FloatTensor] | None" = None,
        states: tuple[tuple[torch.Tensor]] | None = None,
        flag: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        labels: torch.LongTensor | None = None,
        **kwargs: torch.Tensor,
    ) -> None: ...


def test_a_collection_of_tensors_is_no_array() -> None:
    module: Any = Module()
    assert list_parameters(module) == ["plain", "maybe", "images"]


@pytest.mark.parametrize(
    ("declared", "found"),
    [("maybe", ["maybe"]), (["images", "tasks"], ["images"]), ("input_ids", ["plain"])],
)
def test_the_main_input_is_one_that_the_module_takes(declared: Any, found: list[str]) -> None:
    module: Any = SimpleNamespace(forward=Module().forward, main_input_name=declared)
    assert find_main_inputs(module) == found
