"""Pictures, captions and masks from folders and from memory."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from krona_ops.errors import DataError
from krona_train.config import DataConfig
from krona_train.data.buckets import View, views
from krona_train.data.folder import check_folder, files_of, find_pictures, from_folder
from krona_train.data.pictures import Dataset, Picture, from_tensor
from krona_train.data.pixels import Content, cut, to_grid
from krona_train.drawing.contact_sheet import contact_sheet


def paint(path, size=(40, 30), color=(200, 30, 60), mode="RGB", **options):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def square(picture, side):
    """The middle square of a picture, and the view that cut it."""
    content = Content(picture)
    [view] = views(*content.size, side, buckets=False)
    return cut(content.image, view), view


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "b.png")
    paint(tmp_path / "a.jpg", (20, 50))
    (tmp_path / "notes.md").write_text("not a picture")
    paint(tmp_path / ".hidden.png")
    return tmp_path


def test_a_folder_gives_its_pictures_by_name(folder):
    paint(folder / "other" / "c.png")
    assert [p.name for p in from_folder(folder, "a dog")] == ["a.jpg", "b.png"]
    assert {p.caption for p in from_folder(folder, "a dog")} == {"a dog"}
    assert {p.repeats for p in from_folder(folder, "a dog", repeats=3)} == {3}


def test_a_text_file_beside_a_picture_is_its_caption(folder):
    (folder / "a.txt").write_text("\ufeffein Hund im Schnee 🐕\n", encoding="utf-8")
    assert [p.caption for p in from_folder(folder, "a dog")] == ["ein Hund im Schnee 🐕", "a dog"]
    assert [p.caption for p in from_folder(folder, "a dog", captions="prompt")] == ["a dog", "a dog"]


def test_numbered_subfolders_give_repeats_and_captions(folder):
    paint(folder / "10_sks dog" / "a.png")
    paint(folder / "2_" / "a.png")
    paint(folder / "0_left out" / "a.png")
    (paint(folder / "10_sks dog" / "b.png").with_suffix(".txt")).write_text("its own")
    names = ["a.jpg", "b.png", "10_sks dog/a.png", "10_sks dog/b.png", "2_/a.png"]
    found = from_folder(folder, "a dog", repeats=3)
    assert [p.name for p in found] == names
    assert [p.repeats for p in found] == [3, 3, 30, 30, 6]
    assert [p.caption for p in found] == ["a dog", "a dog", "a dog", "its own", "a dog"]
    found = from_folder(folder, "a dog", captions="folders")
    assert [p.caption for p in found] == ["a dog", "a dog", "sks dog", "its own", "a dog"]


def test_a_folder_that_says_everything_needs_no_prompt(tmp_path):
    paint(tmp_path / "3_sks dog" / "a.png")
    check_folder(tmp_path, "", captions="folders")
    assert [p.caption for p in from_folder(tmp_path, "", captions="folders")] == ["sks dog"]
    with pytest.raises(DataError, match=r"3_sks dog/a\.png: The prompt is empty"):
        check_folder(tmp_path, "")


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
        assert [p.name for p in from_folder(folder, "a dog", masks=True)] == ["a.jpg", "b.png"]
    assert "it cannot be read: it is no picture, or its beginning is damaged: c.png" in caplog.text
    assert "it cannot be read: the file is cut off (image file is truncated): d.png" in caplog.text


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


def test_a_cut_is_the_middle_square_and_remembers_the_whole(tmp_path):
    pixels = np.zeros((30, 62, 3), np.uint8)
    pixels[:, 19:43] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert Content(Picture(tmp_path / "x.png", "", "x")).size == (62, 30)
    middle = cut(Image.fromarray(pixels), View(24, 24, 62, 30, 19, 3))
    assert torch.equal(middle, torch.ones(24, 24, 3))
    large, view = square(Picture(tmp_path / "x.png", "", "x"), 64)
    assert large.shape == (64, 64, 3)
    assert (view.left, view.top) == (34, 0)


def test_a_mirrored_cut_is_the_mirror_image_of_the_cut():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    for straight, flipped in zip(*[iter(views(90, 40, 32, buckets=False, crops=3, flip=True))] * 2, strict=True):
        assert (cut(image, flipped) - cut(image, straight).flip(1)).abs().max() <= 1.01 / 255


def test_pictures_are_turned_upright_and_transparency_is_white(tmp_path):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    content = Content(Picture(tmp_path / "x.png", "", "x"))
    assert content.size == content.image.size == (16, 24)
    assert np.asarray(content.image)[:12].min() == 255
    assert np.asarray(content.image)[12:].max() == 0
    paint(tmp_path / "y.png", (8, 8), (255, 0, 0, 0), "RGBA")
    assert torch.equal(square(Picture(tmp_path / "y.png", "", "y"), 8)[0], torch.ones(8, 8, 3))


def test_pictures_from_memory_keep_their_values():
    batch = torch.rand(3, 16, 24, 4, generator=torch.Generator().manual_seed(0))
    pictures = from_tensor(batch, "a cat", repeats=2)
    assert [p.caption for p in pictures] == ["a cat"] * 3
    assert [p.repeats for p in pictures] == [2] * 3
    assert Content(pictures[1]).size == (24, 16)
    whole = cut(Content(pictures[1]).image, View(24, 16, 24, 16, 0, 0))
    assert (whole - batch[1, ..., :3]).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(DataError, match="The prompt is empty"):
        from_tensor(batch, "")


def test_a_picture_that_vanishes_is_named(folder):
    first, _ = from_folder(folder, "a dog")
    (folder / "a.jpg").unlink()
    for ask in ("digest", "size", "image"):
        with pytest.raises(DataError, match=r"a\.jpg: The picture can no longer be read"):
            getattr(Content(first), ask)


# Masks


def test_a_mask_beside_a_picture_is_its_mask_and_no_picture(folder):
    paint(folder / "a-mask.png", (20, 50), 255, "L")
    paint(folder / "ski-mask.png")  # nothing is called ski
    paint(folder / "10_x" / "c.jpg")
    paint(folder / "10_x" / "c-mask.png", color=255, mode="L")
    found = from_folder(folder, "a dog", masks=True)
    assert [p.name for p in found] == ["a.jpg", "b.png", "ski-mask.png", "10_x/c.jpg"]
    assert [p.mask for p in found] == [folder / "a-mask.png", None, None, folder / "10_x" / "c-mask.png"]
    assert [p.mask for p in from_folder(folder, "a dog")] == [None] * 4
    assert {path.name for path in files_of(folder)} >= {"a-mask.png", "c-mask.png", "a.jpg"}
    assert len(find_pictures(folder)) == 4


def test_what_is_opaque_counts_where_there_is_no_mask_file(tmp_path):
    pixels = np.full((6, 10, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0
    pixels[:, 4:6, 3] = 51
    Image.fromarray(pixels).save(tmp_path / "x.png")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    mask = cut(Content(picture).mask, View(10, 6, 10, 6, 0, 0))
    assert torch.allclose(mask, torch.tensor([0.0] * 4 + [0.2] * 2 + [1.0] * 4).expand(6, 10))
    paint(tmp_path / "x-mask.png", (10, 6), 255, "L")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    assert cut(Content(picture).mask, View(10, 6, 10, 6, 0, 0)).min() == 1  # the file wins


def test_a_mask_is_cut_with_its_picture_and_averaged_to_the_latents_grid():
    pixels = np.zeros((48, 96), np.uint8)
    pixels[:, 20:52] = 255
    images = torch.from_numpy(pixels / 255.0).float()[None, ..., None].expand(1, 48, 96, 3)
    [picture] = from_tensor(images, "a dog", torch.from_numpy(pixels / 255.0).float()[None])
    content = Content(picture)
    for view in views(96, 48, 48, buckets=False, crops=3, flip=True):
        mask = cut(content.mask, view)
        assert torch.equal(mask, cut(content.image, view)[..., 0])
        grid = to_grid(mask, (6, 6))
        assert torch.allclose(grid, mask.reshape(6, 8, 6, 8).mean((1, 3)))
    assert torch.equal(to_grid(mask, (1, 6, 6))[0], grid)


def test_a_mask_of_another_size_is_an_error_that_names_both(folder):
    paint(folder / "a-mask.png", (50, 20), 255, "L")
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match=r"a\.jpg: The mask a-mask\.png has 50 × 20 pixels, the picture 20 × 50"):
            use(folder, "a dog", masks=True)
        use(folder, "a dog")


def test_a_mask_is_compared_with_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    paint(tmp_path / "x.jpg", (20, 50), exif=exif)
    paint(tmp_path / "x-mask.png", (50, 20), 255, "L")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    assert Content(picture).mask.size == Content(picture).image.size == (50, 20)


def test_masks_that_leave_nothing_or_cannot_be_read_are_refused(tmp_path):
    paint(tmp_path / "x.png")
    paint(tmp_path / "x-mask.png", color=0, mode="L")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    with pytest.raises(DataError, match=r"x\.png \(x-mask\.png\): The mask is all black"):
        _ = Content(picture).mask
    paint(tmp_path / "x-mask.png", color=1, mode="L")
    assert Content(picture).mask is not None
    (tmp_path / "x-mask.png").write_bytes(b"no")
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match=r"x-mask\.png: The mask cannot be read"):
            use(tmp_path, "a dog", masks=True)


def test_a_mask_of_sixteen_bits_keeps_its_greys(tmp_path):
    paint(tmp_path / "x.png")
    Image.fromarray(np.full((30, 40), 257 * 128, np.uint16)).save(tmp_path / "x-mask.png")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    assert Content(picture).mask.getextrema() == (128, 128)


def test_masks_from_the_graph_belong_to_its_pictures():
    images = torch.zeros(3, 8, 12, 3)
    one, each = torch.rand(1, 8, 12), torch.rand(3, 8, 12)
    assert all(torch.equal(p.mask, one[0]) for p in from_tensor(images, "a dog", one))
    assert all(torch.equal(p.mask, m) for p, m in zip(from_tensor(images, "a dog", each), each, strict=True))
    assert torch.equal(from_tensor(images, "a dog", one[0])[2].mask, one[0])
    for wrong in (torch.rand(2, 8, 12), torch.rand(3, 12, 8)):
        with pytest.raises(DataError, match=r"masks of .* pixels are connected for 3 pictures of 12 × 8"):
            from_tensor(images, "a dog", wrong)


# The data set as a whole


def test_a_data_set_and_its_settings_say_the_same_resolution():
    assert Dataset((), 512).settings.resolution == 512
    assert Dataset((), settings=DataConfig(resolution=768)).resolution == 768
    assert Dataset(()).resolution == 0


def test_a_data_set_knows_which_class_pictures_are_missing_and_what_they_show():
    subject, other = Picture(torch.zeros(4, 4, 3), "a photo of sks dog", "1"), Picture(torch.zeros(4, 4, 3), "a dog", "2")
    dataset = Dataset((subject,), trigger="sks", class_count=3)
    assert dataset.missing_class_pictures == 3
    assert dataset.class_caption == "a photo of dog"
    assert dataset.with_class_pictures([other]).missing_class_pictures == 2
    assert dataset.with_class_pictures([other] * 5).missing_class_pictures == 0
    with pytest.raises(DataError, match="Fill in class_prompt"):
        _ = Dataset((subject,), class_count=3).class_caption


def test_the_contact_sheet_shows_every_picture_where_it_belongs(tmp_path):
    colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 10), (10, 240, 240)]
    pictures = [Picture(paint(tmp_path / f"{n}.png", (32, 32), c), "long " * 40, str(n)) for n, c in enumerate(colors)]
    sheet = contact_sheet(Dataset(tuple(pictures[:4]), 64, class_pictures=(pictures[4],)), side=64, columns=4)
    [wide, high] = sheet.size
    assert [sheet.getpixel((2 + (n % 4) * 66 + 32, 2 + (n // 4) * ((high - 2) // 2) + 32)) for n in range(5)] == colors
    assert wide == 4 * 66 + 2


def test_the_contact_sheet_dims_what_is_cut_off_and_tints_what_is_not_learnt(tmp_path):
    mask = torch.zeros(1, 64, 128)
    mask[..., 64:] = 1
    [picture] = from_tensor(torch.ones(1, 64, 128, 3), "a dog", mask)
    sheet = contact_sheet(Dataset((picture,), 64, settings=DataConfig(buckets=False)), side=128)
    row = [sheet.getpixel((4 + x, 4 + 64)) for x in (8, 48, 80, 120)]
    cut_off_red, red, learnt, cut_off = row
    assert learnt == (255, 255, 255)
    assert red[0] > 1.5 * red[1]
    assert max(cut_off) < 110
    assert cut_off_red[0] > 1.2 * cut_off_red[1]
    assert max(cut_off_red) < 110


def test_a_large_contact_sheet_says_how_many_pictures_it_leaves_out():
    pictures = from_tensor(torch.rand(9, 8, 8, 3), "a dog")
    assert contact_sheet(Dataset(pictures, 64), side=64, limit=4).size == contact_sheet(Dataset(pictures[:4], 64), side=64).size
    wanted = contact_sheet(Dataset(pictures[:3], 64, class_count=2), side=64)
    assert wanted.size == contact_sheet(Dataset(pictures[:4], 64), side=64).size
