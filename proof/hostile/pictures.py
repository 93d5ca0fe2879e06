"""Picture files and masks from a stranger: pixels come of them, or a word of the pack's own,
in little memory whatever their headers say."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from PIL import Image, ImageCms

from krona_train.data.buckets import View
from krona_train.data.class_pictures import make_class_pictures
from krona_train.data.pictures import Picture
from krona_train.data.pixels import Content, is_readable

from ..driver import Bench, Outcome
from ..judge import foreign
from .dice import WORDS, mutated


def run(bench: Bench, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Whole pictures of every kind, their bytes changed; and PNG files whose chunks say what they like."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    whole = list(_whole())
    for number in numbers:
        rng, folder = bench.rng(number), bench.place(number)
        if rng.random() < 0.65:
            suffix, data = rng.choice(whole)
            fault, data = f"bytes of a {suffix} changed", mutated(data, rng)
        else:
            suffix, (fault, data) = "png", _png(rng)
        path = (
            folder / f"class-00000.{suffix}"
            if rng.random() < 0.2
            else folder / f"a.{rng.choice((suffix, 'png', 'jpg'))}"
        )
        path.write_bytes(data)
        yield Outcome(number, fault, tuple(filter(None, _wrong(folder, path, rng))))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _wrong(folder: Path, path: Path, rng: Random) -> Iterator[str | None]:
    yield foreign(lambda: is_readable(path))
    content = Content(Picture(path, "x", "a", path if rng.random() < 0.5 else None))
    yield foreign(lambda: content.size)
    yield foreign(lambda: content.cut(View(8, 8, 8, 8, 0, 0, False)) if rng.random() < 0.5 else content.image)
    yield foreign(lambda: content.mask)
    if path.name.startswith("class-"):
        yield foreign(lambda: make_class_pictures(folder, 1, lambda n: Image.new("RGB", (8, 8)), prompt="x"))


def _whole() -> Iterator[tuple[str, bytes]]:
    base = Image.effect_noise((40, 24), 60)
    for suffix, kind, modes, options in (
        ("png", "PNG", ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), {}),
        (
            "jpg",
            "JPEG",
            ("RGB", "L", "CMYK"),
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
        ("gif", "GIF", ("P", "L"), {"save_all": True, "append_images": [Image.new("L", (40, 24), 9)]}),
        ("webp", "WEBP", ("RGB", "RGBA"), {}),
        ("webp", "WEBP", ("RGB",), {"save_all": True, "append_images": [Image.new("RGB", (40, 24), "red")]}),
        ("png", "PNG", ("RGB",), {"save_all": True, "append_images": [Image.new("RGB", (40, 24), "red")]}),
        ("tif", "TIFF", ("RGB", "L", "F", "I;16", "CMYK", "LAB"), {}),
        ("tif", "TIFF", ("RGB",), {"compression": "tiff_lzw"}),
        ("tif", "TIFF", ("RGB",), {"compression": "jpeg"}),
        ("tif", "TIFF", ("RGB",), {"compression": "tiff_adobe_deflate"}),
        ("bmp", "BMP", ("RGB", "L", "1"), {}),
        ("ppm", "PPM", ("RGB", "L", "1"), {}),
        ("pfm", "PPM", ("F",), {}),
        ("tga", "TGA", ("RGB", "RGBA"), {}),
        ("jp2", "JPEG2000", ("RGB", "L"), {}),
        ("avif", "AVIF", ("RGB",), {}),
        ("qoi", "QOI", ("RGB", "RGBA"), {}),
        ("jpg", "JPEG", ("RGB",), {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}),
    ):
        for mode in modes:
            out = io.BytesIO()
            try:
                image = (
                    Image.new(mode, base.size, 3)
                    if mode in ("I;16", "LAB") and mode == "I;16"
                    else base.convert("RGB").convert(mode)
                )
                image.save(out, kind, **options)
            except (ValueError, OSError, KeyError):  # what this Pillow does not write
                continue
            yield suffix, out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(rng: Random) -> tuple[str, bytes]:
    """A PNG of any size, depth and chunks, with checksums that fit."""
    side = lambda: rng.choice((0, 1, 8, 60, 999, 4000, 14_000, 30_000, 2**31 - 1, 2**32 - 1))  # noqa: E731
    wide, high = (rng.randint(1, 90), rng.randint(1, 90)) if rng.random() < 0.5 else (side(), side())
    depth, colour = rng.choice((1, 2, 4, 8, 8, 8, 16, 3)), rng.choice((0, 2, 2, 3, 4, 6, 6, 5))
    bytes_wide = min(wide, 5000) * {2: 3, 6: 4, 4: 2}.get(colour, 1) * (2 if depth == 16 else 1)
    pixels = zlib.compress((b"\0" + rng.randbytes(1) * bytes_wide) * min(high, 90))
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, depth, colour, 0, 0, rng.choice((0, 0, 1))))]
    bomb = zlib.compress(b"\0" * rng.choice((10, 1_000_000, 30_000_000)))
    asides = [
        (b"zTXt", b"a\0\0" + bomb),
        (b"iTXt", b"a\0\1\0\0\0" + bomb),
        (b"iCCP", b"a\0\0" + bomb),
        (b"tEXt", b"XML:com.adobe.xmp\0" + b"x" * 100),
        (b"iTXt", b"Description\0\0\0\0\0" + rng.choice(WORDS).encode("utf-8", "surrogatepass")),
        (b"zTXt", b"Raw profile type exif\0\0" + bomb),
        (b"eXIf", b"MM\0*\0\0\0\x08" + rng.randbytes(20)),
        (b"PLTE", rng.randbytes(rng.choice((3, 6, 7, 768, 3000)))),
        (b"tRNS", rng.randbytes(rng.choice((1, 2, 6, 256, 700)))),
        (b"acTL", struct.pack(">II", rng.choice((0, 1, 2, 2**31)), 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, *(rng.choice((0, 8, 40, 2**31 - 1)) for _ in range(4)), 1, 1, 0, 0)),
        (b"gAMA", rng.randbytes(rng.choice((0, 4)))),
        (b"cHRM", rng.randbytes(rng.choice((0, 32)))),
        (b"sRGB", b"\x09"),
    ]
    parts += [_chunk(*aside) for aside in rng.sample(asides, rng.randrange(4))]
    parts.append(_chunk(b"IDAT", pixels))
    parts += [_chunk(*aside) for aside in rng.sample(asides, rng.randrange(2))]
    parts.append(_chunk(b"IEND", b""))
    what = "of any size" if wide * high > 10_000 else "with any chunks"
    return f"a png {what}", b"\x89PNG\r\n\x1a\n" + b"".join(parts)
