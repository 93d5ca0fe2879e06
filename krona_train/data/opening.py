"""Picture files, opened with a limit: what their headers say, and their pixels, never more of them than are needed."""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from . import png
from .buckets import Size
from .kinds import formats

LARGEST_MEGAPIXELS = 175
"""Larger pictures are not decoded: a few bytes of file can ask for gigabytes of memory. Pillow's own limit is 179."""
GAP = 3
"""A JPEG is decoded at an eighth, a quarter or half of its size where that still is this many times what is needed; see
docs/LOG.md."""

UNREADABLE = (
    *(OSError, UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, ValueError),
    *(SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, struct.error, zlib.error),
    *(RuntimeError, AssertionError),  # of its AVIF decoder, and of what it believes of its own readers
)
"""What Pillow raises about files that are no picture, or half of one."""
_LYING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_JPEG = ("JPEG", "MPO")
_FRAMES = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
"""Formats in which a second picture in the file is one that is lost. In a JPEG, phones keep depths and brightnesses as
further pictures."""


@dataclass(frozen=True)
class Facts:
    """What a picture file's header says."""

    size: Size
    """Width and height, upright."""
    has_alpha: bool
    """It can be transparent anywhere."""
    has_frames: bool
    """It is an animation, or has several pages."""
    is_jpeg: bool = False
    """It can be decoded smaller than it is."""


def look(path: Path) -> Facts:
    """What the header of a picture file says; nothing is decoded.

    Raises:
        UNREADABLE: It is no picture, or too large.
    """
    with path.open("rb") as file:
        return _facts(_opened(_head_of(file)))


def look_at(data: bytes) -> Facts:
    """What the header of a file's bytes says.

    Raises:
        UNREADABLE: See `look`.
    """
    return _facts(_opened(_head_of(io.BytesIO(data))))


def require_whole(path: Path) -> None:
    """Check that the pixels can be read: a JPEG by its end, a PNG by its checksums, others by decoding them.

    Raises:
        UNREADABLE: They cannot; the error says why.
    """
    with path.open("rb") as file:
        start = file.read(16)
        if png.is_png(start):
            if png.is_sound(file):
                return
        elif start.startswith(b"\xff\xd8"):
            file.seek(-min(64, file.seek(0, io.SEEK_END)), io.SEEK_END)
            if file.read().rstrip(b"\0").endswith(b"\xff\xd9"):
                return
    pixels(path.read_bytes(), (1, 1))


def pixels(data: bytes, least: Size | None = None) -> Image.Image:
    """A file's picture, decoded and upright, in the mode that it has.

    Args:
        least: The size that it will be scaled to, in upright pixels; a JPEG that is much larger is decoded smaller,
            never below `GAP` times this. ``None`` decodes everything.

    Raises:
        UNREADABLE: It is no picture, or half of one, or too large.
    """
    image = _opened(io.BytesIO(png.without_texts(data) if png.is_png(data) else data))
    if least is not None and image.format in _JPEG:
        wide, high = least[::-1] if _orientation(image) in _LYING else least
        image.draft(None, (max(1, GAP * wide), max(1, GAP * high)))
    image.load()
    if image.mode == "P" and image.palette is None:
        raise ValueError("it has numbers of colours, and no colours")
    ImageOps.exif_transpose(image, in_place=True)
    return image


def why(error: BaseException) -> str:
    """Why a picture cannot be read, in words."""
    text = str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture, or its beginning is damaged"
    if "truncated" in text or "Truncated" in text or isinstance(error, EOFError):
        return f"the file is cut off ({text or 'it ends too early'})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return text or type(error).__name__


def _head_of(file: BinaryIO) -> BinaryIO:
    """The file; of a PNG a copy of what comes before its pixels, as `png.header` gives it."""
    start = file.read(len(png.SIGNATURE))
    if png.is_png(start):
        return png.header(file)
    file.seek(0)
    return file


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    """
    Raises:
        UNREADABLE: The file is no picture of `formats`, or too large.
    """
    try:
        image = Image.open(file, formats=formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"(\d+) pixels", str(error))
        raise _too_large(f"{int(count[1]) / 1e6:.0f} megapixels" if count else "too many pixels") from error
    wide, high = image.size
    if wide * high > LARGEST_MEGAPIXELS * 1_000_000:  # where another pack has lifted Pillow's limit
        raise _too_large(f"{wide} × {high} pixels, {wide * high / 1e6:.0f} megapixels")
    if wide < 1 or high < 1:
        raise ValueError("it has no pixels")
    return image


def _too_large(size: str) -> Image.DecompressionBombError:
    return Image.DecompressionBombError(
        f"it is too large: {size}, and at most {LARGEST_MEGAPIXELS} megapixels are read; save it smaller"
    )


def _facts(image: ImageFile.ImageFile) -> Facts:
    size = image.size[::-1] if _orientation(image) in _LYING else image.size
    has_frames = image.format in _FRAMES and bool(getattr(image, "is_animated", False))
    if image.mode == "P" and image.palette is None:
        raise ValueError("it has numbers of colours, and no colours")
    return Facts((size[0], size[1]), image.has_transparency_data, has_frames, image.format in _JPEG)


def _orientation(image: Image.Image) -> int:
    # Not PngImageFile's own: that one decodes the picture first, in case the entry comes after the pixels.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
