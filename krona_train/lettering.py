"""Text on pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import ImageDraw, ImageFont


def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's font: no file of the system is needed, and Pillow's own has few letters beyond English.

    Args:
        size: Of the letters, in pixels.
    """
    import matplotlib  # here, because it takes longer to import than all of this package

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def wrapped(text: str, pen: ImageDraw.ImageDraw, letters: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> str:
    """The text in at most so many lines of at most so many pixels, cut with an ellipsis; words too long for a line are cut."""
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
