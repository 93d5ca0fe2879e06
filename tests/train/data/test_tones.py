"""Pictures of every kind of pixel keep their tones: a ramp from black to white is one afterwards."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from krona_train.data.folder import from_folder
from krona_train.data.pictures import Picture
from krona_train.data.pixels import Content

WIDTH, HEIGHT = 96, 32
RAMP = np.linspace(0, 1, WIDTH)[None].repeat(HEIGHT, 0)
EIGHT = (RAMP * 255).round()


def png(path, values, kind, *, before=(), after=()):
    """A PNG of sixteen bits: kind 0 is grey, 2 colour, 4 grey with alpha, 6 colour with alpha."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)), *before]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks += [(b"IDAT", zlib.compress(lines)), *after, (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def tiff(path, values, bits, sample_format=1, photometric=1, order="<"):
    """An uncompressed TIFF of any kind of number."""
    body = values.tobytes()
    channels = 1 if values.ndim == 2 else values.shape[2]
    entries = [
        (256, 4, 1, values.shape[1]), (257, 4, 1, values.shape[0]), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, values.shape[0]), (279, 4, 1, len(body)), (339, 3, 1, sample_format),
    ]  # fmt: skip
    told = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count) + struct.pack(f"{order}{'I' if kind == 4 else 'Hxx'}", value)
        for tag, kind, count, value in entries
    )
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    path.write_bytes(start + body + struct.pack(f"{order}H", len(entries)) + told + struct.pack(f"{order}I", 0))
    return path


def seen(path):
    """As it is trained on: read from its folder, the first channel of the picture."""
    [picture] = from_folder(path.parent, "a dog")
    image = Content(picture).image
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)[..., 0]


SIXTEEN = (RAMP * 65535).round().astype("<u2")
WIDE = {
    "PNG of 16 bits": lambda p: png(p / "a.png", SIXTEEN, 0),
    "TIFF of 16 bits": lambda p: tiff(p / "a.tif", SIXTEEN, 16),
    "TIFF of 16 bits, big-endian": lambda p: tiff(p / "a.tif", SIXTEEN.astype(">u2"), 16, order=">"),
    "TIFF of 16 bits whose 0 is white": lambda p: tiff(p / "a.tif", 65535 - SIXTEEN, 16, photometric=0),
    "TIFF of 32 bits with 16 used": lambda p: tiff(p / "a.tif", SIXTEEN.astype("<i4"), 32, 2),
    "TIFF of 32 bits with 8 used": lambda p: tiff(p / "a.tif", EIGHT.astype("<i4"), 32, 2),
    "TIFF of 32 bits, all used": lambda p: tiff(p / "a.tif", (RAMP * (2**31 - 1)).astype("<i4"), 32, 2),
    "TIFF of 32 bits without a sign": lambda p: tiff(p / "a.tif", (RAMP * (2**32 - 1)).astype("<u4"), 32),
    "TIFF of floats up to 1": lambda p: tiff(p / "a.tif", RAMP.astype("<f4"), 32, 3),
    "TIFF of floats up to 255": lambda p: tiff(p / "a.tif", (RAMP * 255).astype("<f4"), 32, 3),
    "TIFF of floats up to 65535": lambda p: tiff(p / "a.tif", (RAMP * 65535).astype("<f4"), 32, 3),
    "TIFF of floats up to a million": lambda p: tiff(p / "a.tif", (RAMP * 1e6).astype("<f4"), 32, 3),
    "PGM of 16 bits": lambda p: Image.fromarray(SIXTEEN).save(p / "a.pgm") or p / "a.pgm",
    "PFM": lambda p: Image.fromarray(RAMP.astype("f4")).save(p / "a.pfm") or p / "a.pfm",
    "PNG of grey with alpha, 16 bits": lambda p: png(p / "a.png", np.stack([SIXTEEN, 0 * SIXTEEN + 65535], 2), 4),
    "PNG of colour, 16 bits": lambda p: png(p / "a.png", np.stack([SIXTEEN] * 3, 2), 2),
    "PNG of colour with alpha, 16 bits": lambda p: png(p / "a.png", np.stack([*[SIXTEEN] * 3, 0 * SIXTEEN + 65535], 2), 6),
}  # fmt: skip


@pytest.mark.parametrize("kind", WIDE)
def test_a_ramp_of_many_bits_stays_a_ramp(kind, tmp_path):
    assert np.abs(seen(WIDE[kind](tmp_path)) - EIGHT).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "HSV", "1"])
def test_a_ramp_of_eight_bits_is_what_pillow_makes_of_it(mode, tmp_path):
    image = Image.fromarray(EIGHT.astype(np.uint8)).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    (image if mode != "HSV" else image.convert("RGB")).save(path)
    with Image.open(path) as saved:
        expected = np.asarray(saved.convert("RGB"))[..., 0]
    assert np.array_equal(seen(path), expected)


def test_a_picture_in_lab_is_brought_into_rgb(tmp_path):
    grey = Image.fromarray(EIGHT.astype(np.uint8)).convert("RGB")
    lab = ImageCms.profileToProfile(grey, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    lab.save(tmp_path / "a.tif")
    assert np.abs(seen(tmp_path / "a.tif") - EIGHT).max() <= 2


def test_one_value_of_a_grey_picture_may_be_transparent(tmp_path):
    values = SIXTEEN.copy()
    path = png(tmp_path / "a.png", values, 0, before=[(b"tRNS", struct.pack(">H", int(values[0, 50])))])
    expected = EIGHT.copy()
    expected[:, 50] = 255  # what is transparent lies on white
    assert np.abs(seen(path) - expected).max() <= 1
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    assert np.array_equal(np.asarray(Content(picture).mask)[0] == 0, np.arange(WIDTH) == 50)


def test_floats_that_are_no_numbers_are_black_and_overshoot_is_white(tmp_path):
    values = RAMP.astype("<f4")
    values[:, 10], values[:, 20], values[:, 30], values[:, 40] = np.nan, np.inf, -0.5, 1.25
    got = seen(tiff(tmp_path / "a.tif", values, 32, 3))[0]
    assert got[[10, 20, 30, 40]].tolist() == [0, 0, 0, 255]
    assert np.abs(got[50:] - EIGHT[0, 50:]).max() <= 1


@pytest.mark.parametrize("name", ["TIFF of floats up to 1", "TIFF of 32 bits, all used", "TIFF of 16 bits, big-endian"])
def test_masks_keep_their_greys_too(name, tmp_path):
    mask = WIDE[name](tmp_path)
    mask = mask.rename(tmp_path / "dog-mask.tif")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "dog.jpg")
    [picture] = from_folder(tmp_path, "a dog", masks=True)
    assert np.abs(np.asarray(Content(picture).mask).astype(int) - EIGHT).max() <= 1


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_png_is_turned_upright_wherever_it_says_how_it_lies(place, as_text, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()
    plain = data[6:]
    chunk = (b"eXIf", plain)
    if as_text:
        told = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
        chunk = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(told))
    path = png(tmp_path / "a.png", SIXTEEN, 0, **{place: [chunk]})
    content = Content(Picture(path, "", "a"))
    assert content.size == content.image.size == (HEIGHT, WIDTH)
