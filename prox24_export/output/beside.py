"""A model under a name of its own and the folder of its report: both put into their places, or neither.

There is no one step for two entries. All that is new therefore stands ready in one folder, on the disk, before the
first of it moves; the model moves away first and comes last, so that whoever finds it finds all that belongs to it; and
a run that is killed in between is finished by the next one with the same output.
"""

import os
from contextlib import suppress
from pathlib import Path

from prox24_export.output import manifest
from prox24_export.output.destination import Destination
from prox24_export.output.exchange import rename_to_free, sync

BESIDE, READY, EARLIER = "beside", "ready", "earlier"  # folders in `OUT.unfinished`


def find_model_folder(work: Path, model: Path | None) -> Path:
    """The folder in which the ONNX file of a run grows.

    Args:
        work: The folder that the run writes to.
        model: The ONNX file that the user named; None where a folder was named.
    """
    return work if model is None else work.with_name(BESIDE)


def settle(work: Path, destination: Destination) -> Path:
    """Puts the finished folder `work` and the model beside it into their places.

    Args:
        work: The finished folder; all of it is on the disk.
        destination: Where they go, with all links resolved. What is there may be replaced.

    Returns:
        The folder with what was replaced.

    Raises:
        OSError: Something cannot be moved; everything is where it was then.
    """
    around, beside, ready = work.parent, work.with_name(BESIDE), work.with_name(READY)
    work.rename(beside / destination.folder.name)
    beside.rename(ready)
    sync(around)
    moved: list[tuple[Path, Path]] = []
    try:
        _move_all(around, destination, moved)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        with suppress(OSError):  # it was not even made
            (around / EARLIER).rmdir()
        ready.rename(beside)
        (beside / destination.folder.name).rename(work)
        raise
    return around / EARLIER


def finish_settling(around: Path, destination: Destination) -> Path:
    """Finishes what a run that was killed had begun to put into its places; returns the folder with what was replaced.

    Raises:
        OSError: Something cannot be moved.
    """
    if (around / READY).is_dir():
        _move_all(around, destination, [])
    return around / EARLIER


def _move_all(around: Path, destination: Destination, moved: list[tuple[Path, Path]]) -> None:
    """Moves what is in the way aside, and what is ready into place; each step may have been taken before.

    Args:
        around: The folder that holds what is ready.
        destination: Where it goes.
        moved: Takes each source and target as soon as it is moved.

    Raises:
        OSError: Something cannot be moved, or what is in the way was written by no run.
    """
    ready, earlier, name = around / READY, around / EARLIER, destination.folder.name
    earlier.mkdir(exist_ok=True)
    known = manifest.read_listed_beside(destination.folder) | manifest.read_listed_beside(earlier / name)
    for place in (*destination.files, destination.folder):  # the model first
        if os.path.lexists(ready / place.name) and os.path.lexists(place):
            if not (place.name in known or (place == destination.folder and _is_run_or_empty(place))):
                raise FileExistsError(f"{place} is in the way")
            _move(place, earlier / place.name, moved)
    new = manifest.read_listed_beside(ready / name) | manifest.read_listed_beside(destination.folder)
    stale = manifest.read_listed_beside(earlier / name) - new  # such as external data that the new model does not need
    for place in destination.files:
        if place.name in stale and os.path.lexists(place):
            _move(place, earlier / place.name, moved)
    for place in reversed((*destination.files[:1], destination.folder, *destination.files[1:])):  # the model last
        if os.path.lexists(ready / place.name):
            _move(ready / place.name, place, moved)
    with suppress(OSError):  # it stands; when the disk learns its name is all that is left
        sync(destination.folder.parent)


def _is_run_or_empty(folder: Path) -> bool:
    return folder.is_dir() and (manifest.read_listed(folder) is not None or not any(folder.iterdir()))


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    rename_to_free(source, target)
    moved.append((source, target))
