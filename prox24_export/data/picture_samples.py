"""Samples that are pictures: a folder of them, or uint8 arrays, as the user and the model's processor say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prox24_export.data.checked_arrays import AnyArray, find_picture_layout
from prox24_export.data.picture_folders import find_labels, list_folder
from prox24_export.data.pictures import PictureFiles, PictureRows, PictureSource, load_pillow, make_picture_array
from prox24_export.data.preprocessing import PictureOptions, choose_preprocessing, find_axes, find_layout
from prox24_export.data.sample_groups import LABELS
from prox24_export.errors import InputError
from prox24_export.passes.graph.protocol import Input


@dataclass
class PictureReader:
    """Reads pictures for a model.

    Attributes:
        options: What the user says of pictures.
        processor: Reads the entries of the model's `preprocessor_config.json`; empty where it has none.
        classes: Reads the names of the classes in the order of their indices; empty where they are not known.
        was_used: Whether there were pictures to read.
    """

    options: PictureOptions = field(default_factory=PictureOptions)
    processor: Callable[[], Mapping[str, Any]] = dict
    classes: Callable[[], Sequence[str]] = tuple
    was_used: bool = field(default=False, init=False)

    def read_folder(self, path: Path, option: str, inputs: Sequence[Input]) -> dict[str, AnyArray]:
        """Reads a folder of pictures as the array of the model's input, with labels where it has sub-folders.

        Args:
            path: The folder.
            option: How messages name it, e.g. `--calibration`.
            inputs: The inputs of the model.

        Raises:
            InputError: The model takes no pictures, nothing says how they become numbers, one cannot be read, or has
                another size; or a sub-folder names no class.
            UnavailableError: pillow is not installed.
        """
        where = f"{option} {path}"
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs)
            raise InputError(
                f"{where} holds pictures, and the model takes {names}. Expected a model of one input; for others give "
                "arrays in an .npz file."
            )
        folder = list_folder(path, option)
        arrays: dict[str, AnyArray] = {inputs[0].name: self.read(PictureFiles(folder.files, option), inputs[0], where)}
        labels = find_labels(folder, self.classes(), where) if folder.classes else None
        return arrays if labels is None else arrays | {LABELS: labels}

    def convert(self, arrays: Mapping[str, AnyArray], inputs: Sequence[Input], where: str) -> dict[str, AnyArray]:
        """Takes uint8 arrays of four axes for pictures where the options say how these become numbers."""
        result = dict(arrays)
        for value in inputs if self.options.is_given else ():
            array = arrays.get(value.name)
            layout = None if array is None or value.dtype == np.uint8 else find_picture_layout(array)
            if array is not None and layout is not None:
                result[value.name] = self.read(PictureRows(array, f"{where}: {value.name!r}", layout), value, where)
        return result

    def read(self, source: PictureSource, value: Input, where: str) -> AnyArray:
        """Makes the array of an input of pictures.

        Raises:
            InputError: The input takes no pictures, nothing says how they become numbers, one cannot be read, or has
                another size.
            UnavailableError: pillow is not installed.
        """
        load_pillow()
        self.was_used = True
        layout = find_layout(value, self.options.layout, where)
        channels, size = find_axes(value, layout)
        done = choose_preprocessing(self.options, self.processor(), value, layout, where)
        return make_picture_array(source, done, layout, channels=channels, size=size, dtype=value.dtype)
