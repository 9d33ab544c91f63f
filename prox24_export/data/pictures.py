"""Pictures as arrays: decoded, turned, resized and normalised when they are asked for, and never all at once."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prox24_export.data.checked_arrays import LazyArray
from prox24_export.data.lazy_rows import LazyRows
from prox24_export.data.preprocessing import Preprocessing
from prox24_export.errors import InputError, UnavailableError, describe_missing, first_line
from prox24_export.input_files import expect_file
from prox24_export.option_values import PictureLayout
from prox24_export.passes.graph.arrays import Array
from prox24_export.process.native_output import silence_native_output

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # others start programs or are no pictures, whatever they are called
WANTED = "a picture in JPEG, PNG, WebP, BMP or TIFF"
ORIENTATION, TURNED = 0x0112, {5, 6, 7, 8}  # the tag of EXIF, and its values where height and width change places
WIDE = ("I", "F")  # pillow's modes of pictures with more than 8 bits begin so
MODES = {1: "L", 3: "RGB"}


class PictureSource(Protocol):
    """Pictures in an order."""

    def __len__(self) -> int:
        """The number of pictures."""

    def name(self, index: int) -> str:
        """What messages call a picture."""

    def find_size(self, index: int) -> tuple[int, int]:
        """Finds the height and width of a picture as it is seen."""

    def open(self, index: int, mode: str) -> "Image":
        """Decodes a picture in a mode of pillow."""


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files.

    Attributes:
        files: The files.
        option: How messages name the source.
    """

    files: Sequence[Path]
    option: str

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.files)

    def name(self, index: int) -> str:
        """What messages call a picture."""
        return str(self.files[index])

    def find_size(self, index: int) -> tuple[int, int]:
        """Finds the height and width of a picture as it is seen, from its header.

        Raises:
            InputError: It is no picture, or has more than 8 bits a channel.
        """
        return measure_picture(self.files[index], f"{self.option} {self.files[index]}")

    def open(self, index: int, mode: str) -> "Image":
        """Decodes a picture, turned as its EXIF data say. Of several frames the first is taken.

        Raises:
            InputError: It cannot be decoded.
        """
        return decode_picture(self.files[index], f"{self.option} {self.files[index]}", mode)


@dataclass(frozen=True)
class PictureRows:
    """Pictures in the rows of a uint8 array of four axes.

    Attributes:
        array: The array.
        where: How messages name it.
        layout: The order of its axes.
    """

    array: Array | LazyArray
    where: str
    layout: PictureLayout

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.array)

    def name(self, index: int) -> str:
        """What messages call a picture."""
        return f"{self.where}, picture {index}"

    def find_size(self, index: int) -> tuple[int, int]:
        """Finds the height and width of a picture, which are the same for all."""
        del index
        _, height, width = self.array.shape[:-1] if self.layout == "nhwc" else (0, *self.array.shape[2:])
        return height, width

    def open(self, index: int, mode: str) -> "Image":
        """Takes one picture."""
        from PIL import Image  # noqa: PLC0415 - an extra

        pixels = self.array[index : index + 1][0]
        pixels = pixels if self.layout == "nhwc" else pixels.transpose(1, 2, 0)
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert(mode)


@dataclass(frozen=True, eq=False)
class PictureArray(LazyRows):
    """Pictures as an array of four axes, of which rows are made when they are asked for.

    Attributes:
        source: The pictures.
        preprocessing: What is done with each.
        layout: The order of axes.
        shape: The shape of all together.
        dtype: The dtype of the values.
    """

    source: PictureSource
    preprocessing: Preprocessing
    layout: PictureLayout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice) -> Array:
        """Makes some rows of the array.

        Raises:
            InputError: A picture cannot be decoded.
        """
        indices = range(*rows.indices(len(self)))
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            result[place] = self._make(index)
        return result

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Makes the whole array, as NumPy asks for it."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def _make(self, index: int) -> Array:
        """Makes the array of one picture, in the order of axes."""
        from PIL import Image  # noqa: PLC0415 - an extra

        done = self.preprocessing
        channels = self.shape[1] if self.layout == "nchw" else self.shape[-1]
        image = self.source.open(index, MODES[channels])
        size = image.height, image.width
        height, width = done.find_resized(size)
        if (height, width) != size:
            image = image.resize((width, height), Image.Resampling(done.filter))
        if done.crop is not None:
            top, left = done.find_corner((height, width))
            image = image.crop((left, top, left + done.crop[1], top + done.crop[0]))
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
        if done.mean:
            mean, std = np.asarray(done.mean), np.asarray(done.std)
            pixels = pixels / (std / done.scale).astype(np.float32) - (mean / std).astype(np.float32)
        return pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels


def make_picture_array(
    source: PictureSource,
    preprocessing: Preprocessing,
    layout: PictureLayout,
    *,
    channels: int,
    size: tuple[int, ...] | None,
    dtype: np.dtype[Any],
) -> PictureArray:
    """Makes an array of pictures, and looks at the size of each, so that what does not fit is found at once.

    Args:
        source: The pictures.
        preprocessing: What is done with each.
        layout: The order of axes.
        channels: 1 for grey, 3 for colours.
        size: The height and width that the model fixes; None where it takes any.
        dtype: The dtype that the model takes.

    Raises:
        InputError: A picture cannot be read, or has another size than the model or the others.
    """
    if channels not in MODES:
        raise InputError(f"the model takes {channels} channels. Expected 1 or 3 for pictures; give arrays in an .npz.")
    first: tuple[int, int] | None = None
    for index in range(len(source)):
        own = source.find_size(index)
        resized, made = preprocessing.find_resized(own), preprocessing.find_size(own)
        if any(have < want for have, want in zip(resized, made, strict=True)):
            raise InputError(
                f"{source.name(index)} is {_show(resized)}, and {_show(made)} is cut out of it. Give a larger --resize."
            )
        if size is not None and made != tuple(size):
            raise InputError(
                f"{source.name(index)} becomes {_show(made)}, and the model takes {_show(size)}. Give --resize "
                f"{size[0]}x{size[1]}, or --resize {math.ceil(max(size) * 8 / 7)} --crop {size[0]}x{size[1]}."
            )
        if first is not None and made != first:
            raise InputError(
                f"{source.name(index)} becomes {_show(made)}, and {source.name(0)} {_show(first)}. Expected one size: "
                "give --resize 224x224, or --resize 256 --crop 224."
            )
        first = first or made
    height, width = first or (0, 0)
    shape = (channels, height, width) if layout == "nchw" else (height, width, channels)
    kind = np.dtype(np.float32) if preprocessing.mean else np.dtype(np.uint8)
    return PictureArray(source, preprocessing, layout, (len(source), *shape), kind if kind != np.float32 else dtype)


def _show(size: Sequence[int]) -> str:
    return f"{size[0]} × {size[1]} (height × width)"


def measure_picture(source: Path | bytes, where: str) -> tuple[int, int]:
    """Measures the height and width of a picture as it is seen, from its header.

    Args:
        source: The file, or its bytes.
        where: How messages name it.

    Raises:
        InputError: It is no picture, or has more than 8 bits a channel.
    """
    with _open_picture(source, where) as image:
        is_turned = image.getexif().get(ORIENTATION) in TURNED
        return (image.width, image.height) if is_turned else (image.height, image.width)


def decode_picture(source: Path | bytes, where: str, mode: str) -> "Image":
    """Decodes a picture, turned as its EXIF data say. Of several frames the first is taken.

    Args:
        source: The file, or its bytes.
        where: How messages name it.
        mode: The mode of pillow that it is converted to.

    Raises:
        InputError: It cannot be decoded.
    """
    from PIL import ImageOps  # noqa: PLC0415 - an extra

    with _open_picture(source, where) as image:
        return ImageOps.exif_transpose(image).convert(mode)


@contextmanager
def _open_picture(source: Path | bytes, where: str) -> Iterator["Image"]:
    """Opens a picture whose values can be taken; whatever goes wrong in decoding it is one sentence."""
    size = len(source) if isinstance(source, bytes) else expect_file(source, "picture", WANTED).st_size
    if not size:
        raise InputError(f"{where} is empty. Expected {WANTED}; remove or replace it.")
    image_module = load_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # of odd metadata, which say nothing of pixels
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with image_module.open(file, formats=FORMATS) as image:
                _expect_8_bits(image, where)
                prints = image.format == "TIFF"  # libtiff says on stderr what it thinks of a damaged file
                with silence_native_output() if prints else nullcontext():
                    yield image
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where} cannot be decoded: {first_line(error).rstrip('.')}. Expected {WANTED}; repair or remove it."
        ) from error


def _expect_8_bits(image: "Image", where: str) -> None:
    if image.mode.startswith(WIDE):
        raise InputError(
            f"{where} has more than 8 bits a channel (mode {image.mode}), and nothing says what is white. "
            "Convert it to 8 bits, or give arrays in an .npz file."
        )


def load_pillow() -> Any:
    """Loads pillow's module of pictures.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except Exception as error:  # a broken installation fails in many ways
        raise UnavailableError(
            f"pictures are read with pillow, and {describe_missing(error, 'PIL').replace('PIL', 'pillow')}. "
            "Install it with: pip install 'prox24-export[pictures]'."
        ) from error
    return Image
