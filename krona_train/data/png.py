"""The parts of a PNG file beside its pixels, without decoding: texts of any length, checksums, the end of the file.

Pillow refuses compressed texts of more than a megabyte (``MAX_TEXT_CHUNK``), a limit of the whole process; ComfyUI and
others write whole graphs into their pictures. Nothing of it is needed here, so it is taken out before Pillow sees the
file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ASIDE = (*_TEXTS, b"iCCP")
"""Chunks that may be taken out: colour profiles have the same limit, and are not applied."""
_TURNS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Beginnings of texts that may say how a picture is turned."""
_SMALL = 1 << 20
"""Bytes of texts that Pillow reads without trouble."""
_BLOCK = 1 << 20
"""Bytes that are read at once."""

Chunk = tuple[bytes, int, int]
"""Its kind, where its data begin, and their length."""


def is_png(start: bytes) -> bool:
    """Whether a file begins as a PNG does."""
    return start.startswith(SIGNATURE)


def header(file: BinaryIO) -> io.BytesIO:
    """A PNG without its pixels and texts: Pillow can open it and say what it is, but not load it."""
    before, after = [], []
    seen_pixels = False
    for chunk in _chunks(file):
        kind, start, length = chunk
        if kind == b"IDAT" and not seen_pixels:
            after.append(struct.pack(">I4s", length, kind))
            seen_pixels = True
        elif (not seen_pixels or kind in (b"eXIf", *_TEXTS)) and not _may_go(file, chunk):
            file.seek(start - 8)
            before.append(file.read(length + 12))
    return io.BytesIO(b"".join((SIGNATURE, *before, *after)))


def without_texts(data: bytes) -> bytes:
    """The bytes of a PNG file without the texts that Pillow might refuse; unchanged where these are few."""
    file = io.BytesIO(data)
    aside = [chunk for chunk in _chunks(file) if _may_go(file, chunk)]
    if all(kind == b"tEXt" for kind, _, _ in aside) and sum(length for _, _, length in aside) < _SMALL:
        return data
    whole, parts, done = memoryview(data), [], 0
    for _, start, length in aside:
        parts.append(whole[done : start - 8])
        done = start + length + 4
    return b"".join((*parts, whole[done:]))


def is_sound(file: BinaryIO) -> bool:
    """Whether the file has its end, and the checksums of its pixels are right."""
    kind = b""
    for kind, start, length in _chunks(file):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            file.seek(start)
            total, left = zlib.crc32(kind), length
            while left and (block := file.read(min(left, _BLOCK))):
                total, left = zlib.crc32(block, total), left - len(block)
            if file.read(4) != struct.pack(">I", total):
                return False
    return kind == b"IEND"


def _chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The chunks up to ``IEND``, or to where the file is cut off."""
    place = len(SIGNATURE)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, place + 8, length
        place += length + 12
        if kind == b"IEND":
            return


def _may_go(file: BinaryIO, chunk: Chunk) -> bool:
    """Whether a chunk can be left out: a text or a colour profile that does not say how the picture is turned."""
    kind, start, length = chunk
    if kind not in _ASIDE:
        return False
    if kind not in _TEXTS or length > _SMALL:
        return True
    file.seek(start)
    return not file.read(max(map(len, _TURNS))).startswith(_TURNS)
