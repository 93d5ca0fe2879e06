"""Fonts for text on pictures, and text broken into lines that fit."""

from __future__ import annotations

import logging
from pathlib import Path

from PIL import ImageDraw, ImageFont

from krona_ops.errors import ConfigError

from ..packages import load

log = logging.getLogger(__name__)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's font, which is not one of the system's;
    without matplotlib Pillow's own, with few letters beyond English.

    Args:
        size: Of the letters, in pixels.
    """
    try:
        # Here, as it takes longer to import than all of this package.
        matplotlib = load("matplotlib", "Text beyond English")
    except ConfigError as error:
        log.debug("KronA: %s", error)
        default = ImageFont.load_default(size)
        assert isinstance(default, ImageFont.FreeTypeFont)  # the other kind comes only without a size
        return default
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def wrapped(text: str, pen: ImageDraw.ImageDraw, letters: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> str:
    """The text in at most ``lines`` lines of at most ``width`` pixels;
    an ellipsis stands for what is cut, long words too."""
    done: list[str] = []
    words = text.split()
    while words and len(done) < lines:
        line = words.pop(0)
        while words and pen.textlength(f"{line} {words[0]}", font=letters) <= width:
            line = f"{line} {words.pop(0)}"
        is_cut = bool(words) and len(done) == lines - 1
        done.append(_shortened(line, pen, letters, width, is_cut))
    return "\n".join(done)


def _shortened(line: str, pen: ImageDraw.ImageDraw, letters: ImageFont.FreeTypeFont, width: int, is_cut: bool) -> str:
    """The line, with an ellipsis where something is missing at its end."""
    ending = " …" if is_cut else ""
    if pen.textlength(line + ending, font=letters) <= width:
        return line + ending
    while line and pen.textlength(f"{line.rstrip()} …", font=letters) > width:
        line = line[:-1]
    return f"{line.rstrip()} …"
