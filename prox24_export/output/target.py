"""Which folder may be written: one that is free, or a finished run that may be replaced and holds nothing else."""

import os
from collections.abc import Iterable
from pathlib import Path

from prox24_export.errors import InputError, first_line
from prox24_export.input_files import expect_path
from prox24_export.output import manifest
from prox24_export.output.destination import Destination, find_data

OTHER = "Choose another name with -o."


def expect_place(out: Path) -> Path:
    """Expects a name under which a folder can be written, and returns it with all links resolved.

    Raises:
        InputError: The folder is or holds the current folder, is a link to nothing, or has an impossible name.
        OSError: The folder above it cannot be written.
    """
    place = _resolve(out, "--out")
    for ending in (".unfinished", ".replaced"):
        expect_path(place.with_name(place.name + ending) if place.name else place, "--out")
    if place in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"the output folder {out} is or holds the current folder. Choose another folder with -o.")
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out} is a link to nothing. Choose another folder with -o.")
    _expect_writable(place.parent)
    return place


def expect_model_place(model: Path, folder: Path) -> None:
    """Expects names under which an ONNX file and the folder of its report can be written side by side.

    Raises:
        InputError: The name of the file is that of a folder, or that of the folder is a link.
    """
    expect_path(find_data(model), "--out")
    if model.is_dir():
        raise InputError(f"{model} is a folder, and a name that ends in .onnx is that of a file. {OTHER}")
    if folder.is_symlink():
        raise InputError(f"{folder} is a link, and the report of {model} goes there. Remove it. {OTHER}")


def expect_model_replaceable(destination: Destination, *, force: bool) -> None:
    """Expects no file where the model and its external data go, or those of a run that `force` allows to be replaced.

    Raises:
        InputError: There is another one.
    """
    listed = manifest.read_listed_beside(destination.folder)
    for file in destination.files:
        if not os.path.lexists(file):
            continue
        if file.name not in listed:
            raise InputError(
                f"{file} is there already, and it was not written by a run whose report is in {destination.folder}: "
                f"not even --force replaces it. {OTHER}"
            )
        if not force:
            raise InputError(f"{file} is there already. Replace it with --force, or choose another name with -o.")


def expect_replaceable(out: Path, *, force: bool) -> None:
    """Expects a folder that is free, empty, or a finished run that `force` allows to be replaced.

    Raises:
        InputError: It is none of them, or it also holds files that no run wrote.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file. Expected a folder that does not exist yet; choose one with -o.")
    if out.is_mount():
        raise InputError(f"{out} is a mount point, which cannot be replaced. Give a folder in it: -o {out / 'run'}.")
    if not any(out.iterdir()):
        return
    listed = manifest.read_listed(out)
    if listed is None:
        raise InputError(f"{out} holds files that are not a finished run. Choose another folder with -o.")
    if not force:
        raise InputError(f"{out} holds a finished run. Replace it with --force, or choose another folder with -o.")
    if others := manifest.find_others(out, listed):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"{out} holds {others[0]}{more} beside a finished run, which --force would not bring back. Move it away, "
            "or choose another folder with -o."
        )


def expect_outside(out: Path, sources: Iterable[object], model: Path | None = None) -> None:
    """Expects no file that is read to lie in the output folder, since that is replaced, or to be the output.

    Args:
        out: The output folder.
        sources: What the run reads; what is no path does not count.
        model: The ONNX file that is written beside the folder; None where there is none.

    Raises:
        InputError: One of them does.
    """
    place = _resolve(out, "--out")
    written = [_resolve(file, "--out") for file in Destination(out, model).files]
    for source in sources:
        if not isinstance(source, (str, Path)):
            continue
        found = _resolve(Path(source), "the path")
        if place in (found, *found.parents):
            raise InputError(f"{source}, which is read, lies inside the output folder {out}. Choose another with -o.")
        if found in written:
            raise InputError(f"{source}, which is read, would be replaced by the output {model}. {OTHER}")


def _resolve(path: Path, what: str) -> Path:
    """Resolves all links of a path.

    Raises:
        InputError: It has an impossible name, or its links lead in a circle.
    """
    expect_path(path, what)
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{what} {path} cannot be followed: {first_line(error)}. Give another one.") from error


def _expect_writable(parent: Path) -> None:
    """Checks that a folder can be written, before the work and not after it."""
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {parent}")
