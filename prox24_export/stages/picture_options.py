"""How pictures become a model's inputs: by the options of the run, or by the files beside the model."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prox24_export.data import text
from prox24_export.data.disk_datasets import is_saved_dataset
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.preprocessing import PictureOptions
from prox24_export.data.samples import Source
from prox24_export.errors import InputError, first_line
from prox24_export.input_files import MB, expect_file
from prox24_export.models.processor_files import read_processor
from prox24_export.models.strict_json import read_object
from prox24_export.settings import Settings

WANTED = "one class name a line in the order of the indices, or JSON with names by index"
LONGEST = 16 * MB


def make_picture_reader(model: Path, settings: Settings) -> PictureReader:
    """Makes what reads pictures for a model; the files beside it are read only where there are pictures.

    Args:
        model: A directory, or a file in the folder of which `preprocessor_config.json` and `config.json` may be.
        settings: The options of the run.
    """
    folder = model if model.is_dir() else model.parent
    options = PictureOptions(
        settings.preprocess, settings.resize, settings.crop, settings.mean, settings.std, settings.layout
    )
    processor: Any = partial(read_processor, folder) if model.exists() else dict
    return PictureReader(
        options, processor, partial(_read_classes, settings.classes, folder if model.exists() else None)
    )


def expect_used(settings: Settings, pictures: PictureReader, *sources: Source | None) -> None:
    """Refuses options for pictures and texts where there are none: they would be ignored.

    Raises:
        InputError: One is given.
    """
    names = ("preprocess", "resize", "crop", "mean", "std", "layout", "classes")
    given = next((name for name in names if getattr(settings, name) is not None), None)
    if given is not None and not pictures.was_used:
        raise InputError(
            f"--{given} is for pictures, and the samples are none. Give a folder of them, or leave it out."
        )
    paths = [Path(one) for one in sources if isinstance(one, (str, Path))]
    has_text = any(path.suffix.lower() in text.ENDINGS or is_saved_dataset(path) for path in paths)
    if settings.tokenizer is not None and not has_text:
        raise InputError(
            "--tokenizer is for texts, and the samples are none. Give a .txt or .jsonl file, or leave it out."
        )


def _read_classes(file: str | None, folder: Path | None) -> Sequence[str]:
    """Reads the names of the classes from `--classes`, or else from the model's configuration; empty without both.

    Raises:
        InputError: A file cannot be read, or names no classes.
    """
    if file is None:
        configuration = None if folder is None else folder / "config.json"
        if configuration is None or not configuration.is_file():
            return ()
        found = read_object(configuration, "configuration", "the JSON that save_pretrained writes", most=LONGEST)
        names = found.get("id2label")
        return _order_names(names, str(configuration)) if isinstance(names, dict) else ()
    path = Path(file)
    if path.suffix.lower() == ".json":
        found = read_object(path, "--classes", WANTED, most=LONGEST)
        named = found.get("id2label", found)
        return _order_names(named if isinstance(named, dict) else {}, f"--classes {path}")
    expect_file(path, "--classes", WANTED, most=LONGEST)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"--classes {path} cannot be read: {first_line(error)}. Expected {WANTED}.") from error


def _order_names(names: Mapping[str, Any], where: str) -> Sequence[str]:
    """Puts names by index into the order of the indices."""
    indices = [str(index) for index in range(len(names))]
    if not names or set(names) != set(indices):
        raise InputError(f"{where} does not name classes 0 to {max(0, len(names) - 1)}. Expected {WANTED}.")
    return [str(names[index]) for index in indices]
