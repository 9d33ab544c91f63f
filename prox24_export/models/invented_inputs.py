"""Which inputs a model of transformers needs, and their shapes, where there are no samples to take them from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prox24_export.errors import InputError
from prox24_export.models.forward_arguments import find_main_inputs, list_parameters
from prox24_export.models.processor_files import find_image_size, find_number, read_pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = {"input_ids": 12, "decoder_input_ids": 6}
CHANNELS = 3
SECOND = 16_000  # values of sound


def choose_inputs(module: "PreTrainedModel") -> list[str]:
    """Chooses the inputs that a module cannot do without, by argument name, in the order of its `forward`.

    They are the main input, and one for each other kind of data that the module declares: token ids, images.
    """
    declared = getattr(module, "input_modalities", ())
    kinds = {declared} if isinstance(declared, str) else set(declared or ())
    wanted = set(find_main_inputs(module))
    wanted |= set(TOKENS) if "text" in kinds else set()
    wanted |= {"pixel_values"} if "image" in kinds else set()
    return [name for name in list_parameters(module) if name in wanted]


def invent_shape(name: str, module: "PreTrainedModel", processor: Mapping[str, Any], folder: Path) -> tuple[int, ...]:
    """Invents the shape of one sample of an input: what the configuration says, or else the processor's.

    Args:
        name: The input.
        module: The module.
        processor: See `processor_files.read_processor`.
        folder: The directory, for messages.

    Raises:
        InputError: Neither says it.
    """
    if name in TOKENS:
        return (TOKENS[name],)
    shape = None
    if name == "pixel_values":
        shape = _invent_image(module.config, processor)
    elif name == "input_features":
        shape = _invent_spectrogram(module.config, processor)
    elif name == "input_values":
        shape = _invent_sound(module.config, processor)
    if shape is None:
        raise InputError(
            f"{folder} does not say how large {name!r} of {type(module).__name__} is. Give --calibration: the size of "
            "its images, its sound and its other inputs is taken from there; or add the preprocessor_config.json of "
            "the model."
        )
    return shape


def _invent_image(config: Any, processor: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Invents channels, height and width of an image."""
    size = read_pair(_find(config, "image_size")) or find_image_size(processor)
    return size and (_find_count(config, "num_channels") or CHANNELS, *size)


def _invent_spectrogram(config: Any, processor: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Invents the number of frequencies and of frames."""
    frequencies = _find_count(config, "num_mel_bins") or find_number(processor, "feature_size")
    positions = _find_count(config, "max_source_positions")
    frames = 2 * positions if positions else find_number(processor, "nb_max_frames")
    return (frequencies, frames) if frequencies and frames else None


def _invent_sound(config: Any, processor: Mapping[str, Any]) -> tuple[int, ...]:
    """Invents the number of values, or of frames and frequencies where the model takes those."""
    frequencies = _find_count(config, "num_mel_bins") or find_number(processor, "num_mel_bins")
    frames = _find_count(config, "max_length") or find_number(processor, "max_length")
    if frequencies and frames:
        return (frames, frequencies)
    return (find_number(processor, "sampling_rate") or SECOND,)


def _find_count(config: Any, name: str) -> int | None:
    """Finds a positive whole number in a configuration, or in those in it; None where there is none."""
    return find_number({name: _find(config, name)}, name)


def _find(config: Any, name: str) -> Any:
    """Finds an entry of a configuration, or else of the configurations in it; None where it is in none."""
    found = getattr(config, name, None)
    if found is not None:
        return found
    parts = (getattr(config, key, None) for key in config.sub_configs)
    inner = (_find(part, name) for part in parts if part is not None)
    return next((value for value in inner if value is not None), None)
