"""Folders of pictures: which files count, in which order, and what their sub-folders say of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prox24_export.errors import InputError
from prox24_export.passes.graph.arrays import Array

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder.

    Attributes:
        files: The pictures in the order of their names; those of sub-folders one sub-folder after the other.
        classes: The name of the sub-folder of each; empty where they lie in the folder itself.
    """

    files: Sequence[Path]
    classes: Sequence[str]


def holds_pictures(folder: Path) -> bool:
    """Whether a folder, or one of its sub-folders, holds a picture."""
    return bool(_list_pictures(folder)) or any(_list_pictures(inside) for inside in _list_folders(folder))


def list_folder(folder: Path, option: str) -> PictureFolder:
    """Lists the pictures of a folder or of its sub-folders; other files and hidden ones are left out.

    Links are followed to what they name.

    Raises:
        InputError: Pictures lie in the folder and in its sub-folders, too.
    """
    own = _list_pictures(folder)
    inside = {one.name: _list_pictures(one) for one in _list_folders(folder)}
    inside = {name: files for name, files in inside.items() if files}
    if own and inside:
        raise InputError(
            f"{option} {folder} holds pictures, and so does its sub-folder {min(inside)}. Expected all in the folder, "
            "or each in the sub-folder of its class."
        )
    names = [name for name, files in inside.items() for _ in files]
    return PictureFolder(own or [file for files in inside.values() for file in files], names)


def find_labels(folder: PictureFolder, classes: Sequence[str], where: str) -> Array | None:
    """Finds the class index of each picture from the name of its sub-folder.

    Args:
        folder: The pictures.
        classes: The names of the classes in the order of their indices; empty where they are not known.
        where: What holds the pictures, for messages.

    Returns:
        The indices, int64 [N]; None where there are no sub-folders.

    Raises:
        InputError: A name is neither an index nor that of a class.
    """
    if not folder.classes:
        return None
    names = sorted(set(folder.classes))
    if all(name.isascii() and name.isdigit() for name in names):
        return np.array([int(name) for name in folder.classes], np.int64)
    places = {name: index for index, name in enumerate(classes)}
    unknown = next((name for name in names if name not in places), None)
    if unknown is not None:
        known = (
            "nothing says which class that is" if not classes else f"none of the {len(classes)} classes has that name"
        )
        raise InputError(
            f"{where} has a sub-folder {unknown!r}, and {known}. Name sub-folders by class indices, or give --classes "
            "with a file of one class name a line in the order of the indices."
        )
    return np.array([places[name] for name in folder.classes], np.int64)


def _list_pictures(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and not file.is_dir()
    )


def _list_folders(folder: Path) -> list[Path]:
    return sorted(inside for inside in folder.iterdir() if inside.is_dir() and not inside.name.startswith("."))
