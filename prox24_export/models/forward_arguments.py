"""What samples can be given for: the arguments of a module's `forward` that are tensors."""

import inspect
import re
from typing import TYPE_CHECKING

from prox24_export.data.sample_groups import LABELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_SAMPLES = {"logits_to_keep", LABELS}  # arguments that may be tensors, and hold no samples
COLLECTION = re.compile(r"\b(tuple|list|dict|sequence)\[[^\[\]]*\]", re.IGNORECASE)


def list_parameters(module: "PreTrainedModel") -> list[str]:
    """Lists the arguments of a module's `forward` that samples can be given for, in its order."""
    return [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if name not in NO_SAMPLES and parameter.kind is not parameter.VAR_KEYWORD
        if parameter.annotation is parameter.empty or _may_be_tensor(str(parameter.annotation))
    ]


def _may_be_tensor(annotation: str) -> bool:
    """Whether a type is a tensor, or one among others; a collection of tensors is none."""
    inner = None
    while annotation != inner:  # from the innermost brackets to the outermost
        inner, annotation = annotation, COLLECTION.sub("", annotation)
    return "Tensor" in annotation


def find_main_inputs(module: "PreTrainedModel") -> list[str]:
    """Finds the main input as a module declares it; the first that it can take where it declares one that it lacks."""
    declared, parameters = module.main_input_name, list_parameters(module)
    names = [declared] if isinstance(declared, str) else list(declared)
    return [name for name in names if name in parameters] or parameters[:1]
