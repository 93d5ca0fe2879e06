"""Pictures and captions from folders and from memory."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from krona_ops.errors import DataError
from krona_train.data.contact_sheet import contact_sheet
from krona_train.data.pictures import Picture, check_folder, crop, from_folder, from_tensor


def paint(path, size=(40, 30), color=(200, 30, 60), mode="RGB", **options):
    Image.new(mode, size, color).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "b.png")
    paint(tmp_path / "a.jpg", (20, 50))
    (tmp_path / "notes.md").write_text("not a picture")
    paint(tmp_path / ".hidden.png")
    return tmp_path


def test_a_folder_gives_its_pictures_by_name(folder):
    assert [p.name for p in from_folder(folder, "a dog")] == ["a.jpg", "b.png"]
    assert {p.caption for p in from_folder(folder, "a dog")} == {"a dog"}


def test_a_text_file_beside_a_picture_is_its_caption(folder):
    (folder / "a.txt").write_text("\ufeffein Hund im Schnee 🐕\n", encoding="utf-8")
    assert [p.caption for p in from_folder(folder, "a dog")] == ["ein Hund im Schnee 🐕", "a dog"]
    assert [p.caption for p in from_folder(folder, "a dog", read_captions=False)] == ["a dog", "a dog"]


def test_a_caption_that_is_no_text_is_an_error_that_names_the_file(folder):
    (folder / "b.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match=r"b\.txt: The caption file cannot be read"):
            use(folder, "a dog")


def test_unreadable_pictures_are_left_out_with_a_warning(folder, caplog):
    (folder / "c.png").write_bytes(b"nothing")
    whole = paint(folder / "d.png", (300, 300)).read_bytes()
    (folder / "d.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert [p.name for p in from_folder(folder, "a dog")] == ["a.jpg", "b.png"]
    assert "c.png, it cannot be read" in caplog.text
    assert "d.png, it cannot be read" in caplog.text


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match="There is no such folder"):
            use(tmp_path / "none", "a dog")
        with pytest.raises(DataError, match="There are no pictures in the folder"):
            use(tmp_path, "a dog")
    (tmp_path / "x.png").write_bytes(b"")
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match="None of the 1 pictures can be read"):
            use(tmp_path, "a dog")
    paint(tmp_path / "y.png")
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match="The prompt is empty"):
            use(tmp_path, " ")


def test_a_crop_is_the_middle_square_and_remembers_the_whole(tmp_path):
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:, 15:45] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cut = crop(Picture(tmp_path / "x.png", "", "x"), 30)
    assert (cut.width, cut.height, cut.left, cut.top) == (60, 30, 15, 0)
    assert torch.equal(cut.pixels, torch.ones(30, 30, 3))
    large = crop(Picture(tmp_path / "x.png", "", "x"), 64)
    assert large.pixels.shape == (64, 64, 3)
    assert (large.left, large.top) == (32, 0)


def test_pictures_are_turned_upright_and_transparency_is_white(tmp_path):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = crop(Picture(tmp_path / "x.png", "", "x"), 10)
    assert (upright.width, upright.height) == (10, 20)
    paint(tmp_path / "y.png", (8, 8), (255, 0, 0, 0), "RGBA")
    assert torch.equal(crop(Picture(tmp_path / "y.png", "", "y"), 8).pixels, torch.ones(8, 8, 3))


def test_pictures_from_memory_keep_their_values(tmp_path):
    batch = torch.rand(3, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    pictures = from_tensor(batch, "a cat")
    assert [p.caption for p in pictures] == ["a cat"] * 3
    assert (crop(pictures[1], 16).pixels - batch[1, ..., :3]).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(DataError, match="The prompt is empty"):
        from_tensor(batch, "")


def test_a_picture_that_vanishes_is_named(folder):
    first, _ = from_folder(folder, "a dog")
    (folder / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: The picture can no longer be read"):
        crop(first, 8)


def test_the_contact_sheet_shows_every_picture_where_it_belongs(tmp_path):
    colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 10), (10, 240, 240)]
    pictures = [Picture(paint(tmp_path / f"{n}.png", (32, 32), c), "long " * 40, str(n)) for n, c in enumerate(colors)]
    sheet = contact_sheet(pictures, side=60, columns=4)
    assert sheet.size == (240, 140)
    assert [sheet.getpixel(((n % 4) * 60 + 30, (n // 4) * 70 + 30)) for n in range(5)] == colors
