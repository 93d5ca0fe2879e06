"""Large pictures, large texts in pictures, thin pictures: no more is decoded than needed, and what is too much is said by name."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from krona_ops.errors import DataError
from krona_train.data import opening
from krona_train.data.buckets import View, views
from krona_train.data.folder import check_folder, from_folder, read_folder
from krona_train.data.pictures import Picture
from krona_train.data.pixels import Content, cut, is_readable


def photo(width, height, seed=0):
    """Smooth shapes with some grain, as a camera gives them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((smooth + rng.normal(0, 5, smooth.shape).astype(np.int16)).clip(0, 255).astype(np.uint8))


def jpeg(path, size, **options):
    photo(*size).save(path, quality=90, **options)
    return path


def header_only(size):
    """A PNG that says that it is this large, and has next to nothing in it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# Too large


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_picture_that_is_too_large_is_named_before_anything_is_decoded(tmp_path, limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # other packs lift it for the whole process
    (tmp_path / "map.png").write_bytes(header_only((20000, 10000)))
    jpeg(tmp_path / "dog.jpg", (40, 30))
    tracemalloc.start()
    reading = read_folder(tmp_path, "a dog")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [picture.name for picture in reading.pictures] == ["dog.jpg"]
    [notice] = reading.notices
    assert notice.names == ("map.png",)
    assert "too large" in notice.reason
    assert "200 megapixels, and at most 175 megapixels are read" in notice.reason
    assert most < 20e6
    (tmp_path / "dog.jpg").unlink()
    for use in (from_folder, check_folder):
        with pytest.raises(DataError, match=r"map\.png: it cannot be read: it is too large: .*200 megapixels"):
            use(tmp_path, "a dog")


def test_the_limit_is_in_one_place_and_pillows_own_stays(tmp_path, monkeypatch):
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    jpeg(tmp_path / "dog.jpg", (1100, 1000))
    assert is_readable(tmp_path / "dog.jpg")
    monkeypatch.setattr(opening, "LARGEST_MEGAPIXELS", 1)
    assert not is_readable(tmp_path / "dog.jpg")
    with pytest.raises(DataError, match="1100 × 1000 pixels, 1 megapixels, and at most 1 megapixels are read"):
        _ = Content(Picture(tmp_path / "dog.jpg", "", "dog.jpg")).image
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)


# Texts in PNG files


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("kind", ["text", "itxt", "icc", "after the pixels"])
def test_megabytes_of_text_do_not_make_a_picture_unreadable(tmp_path, kind, is_packed):
    picture, text = photo(40, 30), "a graph; " * 500_000
    info = PngImagePlugin.PngInfo()
    if kind == "itxt":
        info.add_itxt("workflow", text, zip=is_packed)
    elif kind == "after the pixels":
        info.add(b"zTXt", b"workflow\0\0" + zlib.compress(text.encode()), after_idat=True)
    elif kind == "text":
        for number in range(20 if is_packed else 1):  # Pillow also has a limit for all of them together
            info.add_text(f"workflow {number}", text, zip=is_packed)
    options = {"icc_profile": bytes(3_000_000)} if kind == "icc" else {}
    picture.save(tmp_path / "drawn.png", pnginfo=info, **options)
    [found] = from_folder(tmp_path, "a dog")
    content = Content(found)
    assert content.size == (40, 30)
    assert np.array_equal(np.asarray(content.image), np.asarray(picture))


# Damaged ones


def test_pictures_that_are_cut_off_are_named(tmp_path):
    jpeg(tmp_path / "whole.jpg", (300, 200))
    for name, how in (("a.jpg", {"quality": 90}), ("b.png", {}), ("c.webp", {}), ("d.tif", {}), ("e.bmp", {}), ("f.gif", {})):
        photo(300, 200).save(tmp_path / name, **how)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "g.png").write_bytes(b"")
    said = {name: notice.reason for notice in read_folder(tmp_path, "a dog").notices for name in notice.names}
    assert set(said) >= {"a.jpg", "b.png", "c.webp", "d.tif", "e.bmp", "g.png"}
    assert {picture.name for picture in from_folder(tmp_path, "a dog")} - set(said) >= {"whole.jpg"}
    assert "the file is cut off" in said["a.jpg"]


def test_a_png_with_changed_pixels_is_looked_at_more_closely(tmp_path):
    jpeg(tmp_path / "dog.jpg", (40, 30))
    photo(300, 200).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    assert [picture.name for picture in from_folder(tmp_path, "a dog")] == ["dog.jpg"]


@pytest.mark.parametrize("behind", [b"", b"\0" * 30, b"a film of a phone" * 1000])
def test_what_follows_a_jpeg_does_no_harm(tmp_path, behind):
    data = jpeg(tmp_path / "a.jpg", (60, 40)).read_bytes()
    (tmp_path / "a.jpg").write_bytes(data + behind)
    assert len(from_folder(tmp_path, "a dog")) == 1


# Decoding no more than needed


def test_a_folder_is_read_without_decoding_photos(tmp_path, monkeypatch):
    for number in range(3):
        jpeg(tmp_path / f"{number}.jpg", (200, 100))
        photo(200, 100).save(tmp_path / f"{number}.png")
    monkeypatch.setattr("krona_train.data.opening.pixels", lambda *_: pytest.fail("it was decoded"))
    assert len(from_folder(tmp_path, "a dog")) == 6


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_much_larger_photo_is_decoded_smaller_and_looks_the_same(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = Content(Picture(jpeg(tmp_path / "a.jpg", (1600, 1000), exif=exif), "", "a"))
    [view] = views(*content.size, 128)
    small = content.scaled_to(view.scaled_width, view.scaled_height)
    assert opening.GAP * view.scaled_width <= small.width < content.size[0]
    assert opening.GAP * view.scaled_height <= small.height < content.size[1]
    whole = Content(content.picture).image
    assert whole.size == content.size
    difference = (content.cut(view) - cut(whole, view)).abs() * 255
    assert difference.mean() < 0.5
    assert difference.max() <= 6


def test_a_photo_that_is_not_much_larger_is_what_it_always_was(tmp_path):
    content = Content(Picture(jpeg(tmp_path / "a.jpg", (600, 400)), "", "a"))
    for resolution in (64, 128, 512):
        [view] = views(*content.size, resolution)
        expected = cut(Content(content.picture).image, view)
        is_same = torch.equal(content.cut(view), expected)
        assert is_same == (content.size[0] < 2 * opening.GAP * view.scaled_width)


# Thin pictures


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (900, 20)])
def test_a_thin_picture_is_cut_before_it_is_enlarged(size, flip):
    image = photo(*size)
    [view, *_] = [view for view in views(*size, 512, flip=True) if view.flip == flip]
    assert view.kept < 0.125
    tracemalloc.start()
    pixels = cut(image, view)
    tracemalloc.stop()
    assert pixels.shape == (view.height, view.width, 3)
    if view.scaled_width * view.scaled_height > 30e6:
        return  # the whole of it is what shall not be made
    whole = image.resize((view.scaled_width, view.scaled_height), Image.Resampling.LANCZOS)
    left = view.scaled_width - view.width - view.left if flip else view.left
    expected = np.asarray(whole.crop((left, view.top, left + view.width, view.top + view.height)), np.float32)
    expected = expected[:, ::-1] if flip else expected
    assert np.abs(pixels.numpy() * 255 - expected).max() <= 2


def test_ordinary_cuts_are_bit_for_bit_what_they_were():
    image = photo(620, 300)
    for flip in (False, True):
        view = View(300, 300, 620, 300, 100, 0, flip)
        scaled = View(256, 256, 529, 256, 60, 0, flip)
        for one in (view, scaled):
            whole = image.resize((one.scaled_width, one.scaled_height), Image.Resampling.LANCZOS)
            whole = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else whole
            expected = np.asarray(whole.crop((one.left, one.top, one.left + one.width, one.top + one.height)))
            assert np.array_equal((cut(image, one).numpy() * 255).round().astype(np.uint8), expected)


def test_the_bytes_that_are_named_are_those_that_are_decoded(tmp_path):
    jpeg(tmp_path / "a.jpg", (800, 600))
    content = Content(Picture(tmp_path / "a.jpg", "", "a"))
    digest, [view] = content.digest, views(800, 600, 64)
    expected = Content(content.picture).cut(view)
    buffer = io.BytesIO()
    photo(10, 10, seed=1).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert content.digest == digest
    assert torch.equal(content.cut(view), expected)
