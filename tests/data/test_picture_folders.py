"""Sub-folders as classes: by index, by name, and what is refused."""

from pathlib import Path

import pytest

from prox24_export.data.picture_folders import find_labels, holds_pictures, list_folder
from tests.data.sample_sources import refused


def made(place: Path, *names: str) -> Path:
    for name in names:
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return place


def test_names_that_are_integers_are_class_indices(tmp_path: Path) -> None:
    folder = list_folder(made(tmp_path, "10/a.jpg", "2/b.JPEG", "007/c.png", "10/d.webp"), "--evaluation")
    assert [file.name for file in folder.files] == ["c.png", "a.jpg", "d.webp", "b.JPEG"]
    labels = find_labels(folder, (), "--evaluation d")
    assert labels is not None
    assert labels.tolist() == [7, 10, 10, 2]


def test_other_names_are_those_of_the_classes(tmp_path: Path) -> None:
    folder = list_folder(made(tmp_path, "dog/a.jpg", "cat/b.jpg"), "--evaluation")
    labels = find_labels(folder, ("cat", "cow", "dog"), "--evaluation d")
    assert labels is not None
    assert labels.tolist() == [0, 2]
    with refused("--evaluation d has a sub-folder 'cat', and nothing says which class that is. Name sub-folders by"):
        find_labels(folder, (), "--evaluation d")
    with refused("has a sub-folder 'dog', and none of the 2 classes has that name."):
        find_labels(folder, ("cat", "cow"), "--evaluation d")


def test_a_folder_without_sub_folders_has_no_labels(tmp_path: Path) -> None:
    folder = list_folder(made(tmp_path, "a.jpg", ".hidden/b.jpg", "empty/notes.txt"), "--evaluation")
    assert find_labels(folder, (), "--evaluation d") is None


def test_pictures_beside_sub_folders_of_pictures_are_refused(tmp_path: Path) -> None:
    with refused("holds pictures, and so does its sub-folder cat. Expected all in the folder"):
        list_folder(made(tmp_path, "a.jpg", "cat/b.jpg"), "--evaluation")


@pytest.mark.parametrize(
    ("name", "expected"), [("a.jpg", True), ("cat/a.tiff", True), ("deep/cat/a.jpg", False), ("a.txt", False)]
)
def test_what_counts_as_a_folder_of_pictures(name: str, expected: bool, tmp_path: Path) -> None:
    assert holds_pictures(made(tmp_path, name)) == expected


def test_a_link_to_a_folder_of_a_class_is_followed(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "a.jpg")
    made(tmp_path / "pictures", "3/b.jpg")
    (tmp_path / "pictures" / "4").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    folder = list_folder(tmp_path / "pictures", "--evaluation")
    labels = find_labels(folder, (), "--evaluation d")
    assert labels is not None
    assert labels.tolist() == [3, 4]
