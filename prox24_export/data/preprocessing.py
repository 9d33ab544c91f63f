"""How pictures become the numbers that a model takes: sizes, scale, mean and deviation, and the order of axes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prox24_export.data.checked_arrays import CHANNELS, PICTURE_AXES
from prox24_export.errors import InputError
from prox24_export.option_values import PictureLayout, PicturePreset
from prox24_export.passes.graph.protocol import Input

Size = tuple[int, ...]  # height and width, or the shorter edge alone
BILINEAR, BICUBIC = 2, 3  # as pillow and configurations number them
WHITE = 255
HEIGHT, WIDTH = 0, 1
RECIPE = (
    "Give --preprocess imagenet, clip, siglip or 0-1 as the model was trained, or --mean and --std (with --resize and "
    "--crop)."
)


@dataclass(frozen=True)
class PictureOptions:
    """What the user says of pictures; None where nothing is said.

    Attributes:
        preset: A preprocessing by its name.
        resize: `256` for the shorter edge, `224x224` for height and width.
        crop: The size that is cut out of the middle.
        mean: Of each channel, on the scale from 0 to 1; one for all.
        std: The deviation of each channel, on that scale; one for all.
        layout: The order of axes.
    """

    preset: PicturePreset | None = None
    resize: str | None = None
    crop: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: PictureLayout | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything is said."""
        return self != PictureOptions()


@dataclass(frozen=True)
class Preprocessing:
    """What is done with a picture.

    Attributes:
        resize: Height and width, or the shorter edge alone; None leaves the size as it is.
        crop: Height and width that are cut out of the middle; None cuts nothing.
        mean: What is subtracted from each channel, on the scale from 0 to 1; empty where values stay 0 to 255.
        std: What it is divided by then.
        filter: How pixels are resampled, by pillow's number.
        scale: What the values from 0 to 255 are multiplied with before that.
        cuts_low: Whether a border of an odd size is cut lower on the top left, as transformers does, and not as
            torchvision does.
    """

    resize: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    filter: int = BILINEAR
    scale: float = 1 / WHITE
    cuts_low: bool = False

    def find_resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Finds the height and width to which a picture of `size` is resized."""
        if self.resize is None:
            return size
        if len(self.resize) > 1:
            return self.resize[HEIGHT], self.resize[WIDTH]
        edge, shorter = self.resize[0], min(size)
        height, width = (edge if side == shorter else int(edge * side / shorter) for side in size)
        return height, width

    def find_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Finds the height and width of what becomes of a picture of `size`."""
        resized = self.find_resized(size)
        return resized if self.crop is None else (self.crop[HEIGHT], self.crop[WIDTH])

    def find_corner(self, size: tuple[int, int]) -> tuple[int, int]:
        """Finds the top left corner of what is cut out of a picture of `size`."""
        wanted = self.find_size(size)
        halves = [(have - want) / 2 for have, want in zip(size, wanted, strict=True)]
        top, left = (math.floor(half) if self.cuts_low else round(half) for half in halves)
        return top, left


PRESETS: Mapping[PicturePreset, Callable[[Size | None], Preprocessing]] = {
    # torchvision's reference evaluation: 256 and 224, or in that relation
    "imagenet": lambda size: Preprocessing(
        (round(min(size or (224,)) * 256 / 224),), size or (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ),
    # CLIPImageProcessor of openai/clip-vit-base-patch32
    "clip": lambda size: Preprocessing(
        (max(size or (224,)),),
        size or (224, 224),
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        BICUBIC,
        cuts_low=True,
    ),
    # SiglipImageProcessor of google/siglip-base-patch16-224
    "siglip": lambda size: Preprocessing(size or (224, 224), None, (0.5,), (0.5,), BICUBIC),
    "0-1": lambda _: Preprocessing(None, None, (0.0,), (1.0,)),
}
"""The presets, given the height and width that the model fixes."""


def find_layout(value: Input, layout: PictureLayout | None, where: str) -> PictureLayout:
    """Finds the order of an input's axes.

    Raises:
        InputError: The input takes no pictures.
    """
    shape = value.shape
    if shape is None or len(shape) != PICTURE_AXES:
        shown = "of unknown rank" if shape is None else f"of {len(shape)} axes"
        raise InputError(
            f"{where} holds pictures, and the model's input {value.name} is {shown}. Expected one of four axes, "
            "[N, C, H, W] or [N, H, W, C]; for another one give arrays in an .npz file."
        )
    if layout is not None:
        return layout
    return "nhwc" if shape[-1] in CHANNELS and shape[1] not in CHANNELS else "nchw"


def find_axes(value: Input, layout: PictureLayout) -> tuple[int, Size | None]:
    """Finds the number of channels that an input takes, 3 where it does not say, and the size that it fixes."""
    channels, height, width = (
        (value.shape or ())[1:] if layout == "nchw" else [(value.shape or ())[i] for i in (3, 1, 2)]
    )
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return channels if isinstance(channels, int) else 3, size


def choose_preprocessing(
    options: PictureOptions, processor: Mapping[str, Any], value: Input, layout: PictureLayout, where: str
) -> Preprocessing:
    """Chooses what is done with pictures: what the options say, else what the model's processor does.

    Args:
        options: What the user says.
        processor: The entries of `preprocessor_config.json`; empty where there is none.
        value: The input of the model.
        layout: The order of its axes.
        where: What holds the pictures, for messages.

    Raises:
        InputError: Neither says how pictures become numbers.
    """
    channels, size = find_axes(value, layout)
    is_raw = value.dtype.name == "uint8"
    if is_raw and (options.preset or options.mean or options.std):
        raise InputError(f"the model's input {value.name} is uint8. Leave --mean, --std and --preprocess out.")
    chosen = Preprocessing() if is_raw else _choose_base(options, processor, size, where)
    resize, crop = _parse_size(options.resize), _parse_size(options.crop)
    if resize is not None:
        chosen = replace(chosen, resize=resize)
    if crop is not None:
        chosen = replace(chosen, crop=crop if len(crop) > 1 else crop * 2)
    chosen = replace(chosen, mean=options.mean or chosen.mean, std=options.std or chosen.std)
    for option, numbers in (("--mean", chosen.mean), ("--std", chosen.std)):
        if len(numbers) not in {0, 1, channels}:
            raise InputError(f"{option} has {len(numbers)} numbers, and the model takes {channels} channels. Give one.")
    return chosen


def _choose_base(options: PictureOptions, processor: Mapping[str, Any], size: Size | None, where: str) -> Preprocessing:
    """Chooses what single options then change: a preset, nothing but mean and deviation, or the model's processor."""
    if options.preset is not None:
        return PRESETS[options.preset](size)
    if options.mean is not None and options.std is not None:
        return Preprocessing()
    if options.mean is not None or options.std is not None:
        raise InputError("--mean and --std belong together. Give both, on the scale from 0 to 1, or --preprocess.")
    if not processor:
        raise InputError(f"{where} holds pictures, and nothing says how they become numbers. {RECIPE}")
    return _read_processor(processor)


def _parse_size(text: str | None) -> Size | None:
    return None if text is None else tuple(int(edge) for edge in text.lower().split("x"))


def _read_processor(found: Mapping[str, Any]) -> Preprocessing:
    """Reads what a `preprocessor_config.json` says, in the words of transformers' image processors."""
    resize = _read_size(found.get("size")) if found.get("do_resize", True) else None
    crop = _read_size(found.get("crop_size")) if found.get("do_center_crop", "crop_size" in found) else None
    share = found.get("crop_pct")
    if isinstance(share, (int, float)) and 0 < share < 1 and resize is not None and len(resize) == 1:
        resize, crop = (int(resize[0] / share),), resize  # as ConvNeXt's processor does
    normal = found.get("do_normalize", True)
    mean, std = (_read_numbers(found.get(name)) if normal else default for name, default in STATISTICS)
    scale = found.get("rescale_factor", 1 / WHITE) if found.get("do_rescale", True) else 1.0
    filter_ = found.get("resample", BILINEAR)
    return Preprocessing(
        resize,
        crop if crop is None or len(crop) > 1 else crop * 2,
        mean,
        std,
        filter_ if isinstance(filter_, int) and 0 <= filter_ <= 5 else BILINEAR,  # noqa: PLR2004 - pillow has six
        float(scale) if isinstance(scale, (int, float)) else 1 / WHITE,
        cuts_low=True,
    )


STATISTICS = (("image_mean", (0.0,)), ("image_std", (1.0,)))


def _read_size(value: Any) -> Size | None:
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, dict):
        return None
    both = [value.get(name) for name in ("height", "width")]
    edges = both if None not in both else [value.get("shortest_edge")]
    sizes = tuple(edge for edge in edges if isinstance(edge, int) and edge > 0)
    return sizes if len(sizes) == len(edges) else None


def _read_numbers(value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise InputError(f"the model's preprocessor_config.json has no mean or deviation to read. {RECIPE}")
    return tuple(map(float, numbers))
