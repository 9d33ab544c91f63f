"""What the files of a processor, which prepares images and sound, say of sizes. Nothing of it is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prox24_export.input_files import MB
from prox24_export.models.strict_json import read_object

FILES = ("preprocessor_config.json", "processor_config.json")
PARTS = ("image_processor", "feature_extractor")  # of a processor_config.json
WANTED = "the JSON that save_pretrained writes"
LONGEST = 16 * MB
PAIR = 2


def read_processor(folder: Path) -> dict[str, Any]:
    """Reads what the processor of a Hugging Face directory says; empty where it has none.

    Returns:
        The entries of its files, those of its image processor and feature extractor included.

    Raises:
        InputError: A file of it cannot be read.
    """
    found: dict[str, Any] = {}
    for file in (folder / name for name in FILES):
        if file.exists():
            read = read_object(file, "processor's configuration", WANTED, most=LONGEST)
            for part in (read, *(read.get(name) for name in PARTS)):
                found |= part if isinstance(part, dict) else {}
    return found


def find_image_size(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """Finds height and width of the images that a processor makes; None where it does not say."""
    crop = found.get("crop_size") if found.get("do_center_crop", True) else None
    return read_pair(crop) or read_pair(found.get("size"))


def find_number(found: Mapping[str, Any], name: str) -> int | None:
    """Finds a positive whole number by its name; None where there is none."""
    value = found.get(name)
    return value if _is_size(value) else None


def read_pair(value: Any) -> tuple[int, int] | None:
    """Reads height and width as configurations write them: one number, two, or an object; None for anything else."""
    if isinstance(value, dict):
        edge = value.get("shortest_edge")
        value = [value.get("height", edge), value.get("width", edge)]
    pair = list(value) if isinstance(value, (list, tuple)) else [value, value]
    return (pair[0], pair[1]) if len(pair) == PAIR and all(map(_is_size, pair)) else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
