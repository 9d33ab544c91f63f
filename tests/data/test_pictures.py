"""Pictures of every kind that people have: what becomes of each, and which are refused with a way out."""

import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prox24_export.data import pictures
from prox24_export.data.picture_samples import PictureReader
from prox24_export.data.preprocessing import PictureOptions
from prox24_export.data.sample_list import SampleList
from prox24_export.data.samples import read_samples
from prox24_export.errors import UnavailableError
from prox24_export.passes.graph.protocol import Input
from tests.data.sample_sources import one, refused

Image = pytest.importorskip("PIL.Image")
FREE = one(("N", 3, "H", "W"))
ZERO_TO_ONE = PictureOptions(preset="0-1")
RED, BLUE = (200, 10, 20), (0, 0, 250)


def picture(size: tuple[int, int] = (6, 4), color: Any = RED, mode: str = "RGB") -> Any:
    """A picture of one colour, width × height."""
    return Image.new(mode, size, color)


def gradient(width: int, height: int) -> Any:
    values = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) * 7 % 251
    return Image.fromarray(values.astype(np.uint8))


def folder_of(place: Path, **images: Any) -> Path:
    """Saves pictures as PNG files by name; `__` stands for the end of a sub-folder's name."""
    for name, image in images.items():
        file = place / "pictures" / f"{name.replace('__', '/')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return place / "pictures"


def taken(
    source: Path, options: PictureOptions = ZERO_TO_ONE, inputs: tuple[Input, ...] = FREE, **more: Any
) -> SampleList:
    return read_samples(source, inputs, "--calibration", pictures=PictureReader(options, **more))


def first(source: Path, options: PictureOptions = ZERO_TO_ONE, inputs: tuple[Input, ...] = FREE) -> Any:
    return taken(source, options, inputs)[0].feeds["x"][0]


def test_values_are_those_of_the_pixels_by_scale_mean_and_deviation(tmp_path: Path) -> None:
    folder, pixels = folder_of(tmp_path, a=gradient(6, 4)), np.asarray(gradient(6, 4)).astype(np.float64) / 255
    np.testing.assert_allclose(first(folder), pixels.transpose(2, 0, 1), atol=1e-6)
    same = PictureOptions(mean=(0.5,), std=(0.5,))
    np.testing.assert_allclose(first(folder, same), pixels.transpose(2, 0, 1) * 2 - 1, atol=1e-6)
    each = PictureOptions(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    np.testing.assert_allclose(
        first(folder, each), ((pixels - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]).transpose(2, 0, 1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("inputs", "layout", "shape"),
    [
        (one(("N", 3, "H", "W")), None, (3, 4, 6)),
        (one(("N", "H", "W", 3)), None, (4, 6, 3)),
        (one(("N", 4, 6, 3)), None, (4, 6, 3)),
        (one(("N", None, None, None)), None, (3, 4, 6)),
        (one(("N", None, None, None)), "nhwc", (4, 6, 3)),
        (one(("N", 1, "H", "W")), None, (1, 4, 6)),
        (one(("N", 3, "H", "W"), np.float16), None, (3, 4, 6)),
    ],
)
def test_axes_and_channels_are_those_of_the_input(inputs: Any, layout: Any, shape: Any, tmp_path: Path) -> None:
    made = first(folder_of(tmp_path, a=picture()), PictureOptions(preset="0-1", layout=layout), inputs)
    assert made.shape == shape
    assert made.dtype == inputs[0].dtype


def test_a_model_of_bytes_gets_the_pixels_themselves(tmp_path: Path) -> None:
    folder, inputs = folder_of(tmp_path, a=gradient(6, 4)), one(("N", 4, 6, 3), np.uint8)
    np.testing.assert_array_equal(first(folder, PictureOptions(), inputs), np.asarray(gradient(6, 4)))
    with refused("the model's input x is uint8. Leave --mean, --std and --preprocess out."):
        taken(folder, ZERO_TO_ONE, inputs)


def test_order_is_that_of_the_names_and_other_files_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, b=picture(color=BLUE), a=picture(), c=picture())
    (folder / "notes.txt").write_text("words")
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "._a.png").write_bytes(b"\0")
    folder.joinpath("list.csv").touch()
    found = taken(folder)
    assert [round(255 * float(sample.feeds["x"][0, 2, 0, 0])) for sample in found] == [20, 250, 20]
    assert [sample.labels for sample in found] == [None] * 3


def test_pictures_are_decoded_one_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    decode = pictures.PictureFiles.open

    def note(files: pictures.PictureFiles, index: int, mode: str) -> Any:
        opened.append(files.name(index))
        return decode(files, index, mode)

    monkeypatch.setattr(pictures.PictureFiles, "open", note)
    found = taken(folder_of(tmp_path, **{f"p{index}": picture() for index in range(6)}))
    assert len(found) == 6
    opened.clear()
    assert found[4].feeds["x"].shape == (1, 3, 4, 6)
    assert [Path(name).name for name in opened] == ["p4.png"]


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (picture(mode="L", color=80), (80, 80, 80)),
        (picture(mode="1", color=1), (255, 255, 255)),
        (picture(mode="LA", color=(80, 9)), (80, 80, 80)),
        (picture(mode="RGBA", color=(*RED, 9)), RED),
        (picture().convert("P", palette=Image.Palette.ADAPTIVE), RED),
    ],
    ids=["grey", "black and white", "grey with alpha", "alpha", "palette"],
)
def test_every_mode_becomes_three_channels_and_alpha_is_left_out(image: Any, pixel: Any, tmp_path: Path) -> None:
    made = first(folder_of(tmp_path, a=image))
    assert np.round(made[:, 0, 0] * 255).astype(int).tolist() == list(pixel)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_of_colours_of_16_bits_the_upper_8_are_taken(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    header = (2).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])  # 2 × 2 pixels of three channels
    row = b"\0" + bytes([200, 255, 10, 255, 20, 255]) * 2
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    )
    (tmp_path / "d" / "a.png").write_bytes(content)
    assert np.round(first(tmp_path / "d")[:, 0, 0] * 255).astype(int).tolist() == list(RED)


def test_of_several_frames_the_first_is_taken(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    picture().save(tmp_path / "d" / "a.tiff", save_all=True, append_images=[picture(color=BLUE)])
    assert np.round(first(tmp_path / "d")[:, 0, 0] * 255).astype(int).tolist() == list(RED)


def test_other_formats_are_not_decoded_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    picture().save(tmp_path / "d" / "a.eps")
    (tmp_path / "d" / "a.eps").rename(tmp_path / "d" / "a.png")
    with refused("a.png cannot be decoded: cannot identify image file"):
        taken(tmp_path / "d")


def test_cmyk_becomes_colours(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    picture().convert("CMYK").save(tmp_path / "d" / "a.jpg", quality=100)
    np.testing.assert_allclose(first(tmp_path / "d")[:, 0, 0] * 255, RED, atol=4)


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    left_is_blue = picture((16, 8))
    left_is_blue.paste(BLUE, (0, 0, 8, 8))
    left_is_blue.save(tmp_path / "d" / "a.png", exif=exif)
    made = first(tmp_path / "d")
    assert made.shape == (3, 16, 8)
    assert np.round(made[:, 0, 0] * 255).astype(int).tolist() == list(BLUE)
    assert np.round(made[:, 15, 0] * 255).astype(int).tolist() == list(RED)


def test_links_are_followed_and_one_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a=picture())
    (folder / "b.png").symlink_to(folder / "a.png")
    assert len(taken(folder)) == 2
    (folder / "c.png").symlink_to(tmp_path / "nowhere.png")
    with refused("no such picture: "):
        taken(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_is_called_a_picture_is_refused(tmp_path: Path) -> None:
    os.mkfifo(folder_of(tmp_path, a=picture()) / "b.png")
    with refused("b.png is a named pipe. Expected a picture"):
        taken(tmp_path / "pictures")


def torn() -> bytes:
    buffer = io.BytesIO()
    gradient(64, 64).save(buffer, "PNG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "b.png is empty. Expected a picture in JPEG, PNG, WebP, BMP or TIFF; remove or replace it."),
        (b"no picture at all", "b.png cannot be decoded: cannot identify image file"),
        (torn(), "b.png cannot be decoded: "),
    ],
    ids=["empty", "text", "torn"],
)
def test_a_corrupt_picture_is_told_by_its_name(content: bytes, said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a=picture((64, 64)))
    (folder / "b.png").write_bytes(content)
    with refused(said):
        _ = [sample.feeds["x"] for sample in taken(folder)]


def test_what_libtiff_says_of_a_damaged_picture_is_not_seen(tmp_path: Path, capfd: Any) -> None:
    file = io.BytesIO()
    gradient(8, 8).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    start = Image.open(file).tag_v2[273][0]  # of the packed pixels
    data[start + 4 : start + 40] = b"\xff" * 36
    (tmp_path / "damaged.tif").write_bytes(bytes(data))
    with refused("damaged.tif cannot be decoded"):
        np.asarray(PictureReader(ZERO_TO_ONE).read_folder(tmp_path, "--calibration", FREE)["x"])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    picture(mode=mode, color=1).save(tmp_path / "d" / "a.tiff")
    with refused("has more than 8 bits a channel"):
        taken(tmp_path / "d")


def test_a_picture_of_very_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with refused("cannot be decoded: Image size (24 pixels) exceeds limit of 20 pixels"):
        taken(folder_of(tmp_path, a=picture()))


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a=picture((6, 4)), b=picture((8, 8)))
    with refused("Expected one size: give --resize 224x224, or --resize 256 --crop 224."):
        taken(folder)
    made = taken(folder, PictureOptions(preset="0-1", resize="5x7"))
    assert [sample.feeds["x"].shape for sample in made] == [(1, 3, 5, 7)] * 2
    made = taken(folder, PictureOptions(preset="0-1", resize="8", crop="6"))
    assert [sample.feeds["x"].shape for sample in made] == [(1, 3, 6, 6)] * 2
    with refused("is cut out of it. Give a larger --resize."):
        taken(folder, PictureOptions(preset="0-1", crop="5"))


def test_a_size_that_the_model_does_not_take_is_told_with_the_options_that_make_it(tmp_path: Path) -> None:
    with refused("Give --resize 32x32, or --resize 37 --crop 32x32."):
        taken(folder_of(tmp_path, a=picture()), ZERO_TO_ONE, one(("N", 3, 32, 32)))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (one(("N", 3)), "the model's input x is of 2 axes. Expected one of four axes"),
        (one(None), "the model's input x is of unknown rank"),
        (
            (*FREE, Input("mask", np.dtype(np.float32), ("N",))),
            "the model takes x, mask. Expected a model of one input",
        ),
        (one(("N", 4, "H", "W")), "the model takes 4 channels. Expected 1 or 3 for pictures"),
    ],
)
def test_a_model_that_takes_no_pictures_is_told(inputs: Any, said: str, tmp_path: Path) -> None:
    with refused(said):
        taken(folder_of(tmp_path, a=picture()), ZERO_TO_ONE, inputs)


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, a=picture())
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(UnavailableError, match=r"pip install 'prox24-export\[pictures\]'"):
        taken(folder)


def test_uint8_arrays_are_pictures_where_options_say_so(tmp_path: Path) -> None:
    pixels = np.stack([np.asarray(gradient(6, 4)), np.asarray(picture())])
    np.savez(tmp_path / "last.npz", x=pixels, labels=np.arange(2))
    np.savez(tmp_path / "first.npz", x=pixels.transpose(0, 3, 1, 2))
    with refused("uint8 [N, H, W, C] looks like pictures. Give --preprocess imagenet, clip, siglip or 0-1"):
        taken(tmp_path / "last.npz", PictureOptions())
    with refused("uint8 [N, C, H, W] looks like pictures. Give --preprocess"):
        taken(tmp_path / "first.npz", PictureOptions())
    wanted = pixels.transpose(0, 3, 1, 2) / 255
    for name in ("last.npz", "first.npz"):
        found = taken(tmp_path / name)
        np.testing.assert_allclose(np.concatenate([sample.feeds["x"] for sample in found]), wanted, atol=1e-6)
    assert [sample.labels for sample in taken(tmp_path / "last.npz")] == [0, 1]


def test_channels_at_the_wrong_end_are_told_with_the_transposition(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 8, 8, 3), np.float32))
    with refused("Channels are last here: store array.transpose(0, 3, 1, 2)."):
        taken(tmp_path / "d.npz", PictureOptions(), one(("N", 3, 8, 8)))
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    with refused("Channels are first here: store array.transpose(0, 2, 3, 1)."):
        taken(tmp_path / "d.npz", PictureOptions(), one(("N", 8, 8, 3)))
