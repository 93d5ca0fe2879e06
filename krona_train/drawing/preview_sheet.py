"""The previews of a run on one sheet: a row for each step, a column for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

from krona_ops.errors import DataError

from .lettering import font, wrapped

MOST_ROWS = 16
"""Rows at most; of a run with more previews so many are shown, evenly spread over it."""
_WIDEST = 4096
"""Pixels; with many prompts the pictures become smaller."""
_LABEL = 72
_GAP = 6
_INK, _FAINT, _PAPER = "#f2f2f2", "#9aa0aa", "#202226"


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread, the first and the last always among them."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]


def preview_sheet(
    rows: Sequence[tuple[int, Sequence[Image.Image]]],
    captions: Sequence[str] = (),
    side: int = 256,
    most_rows: int = MOST_ROWS,
) -> Image.Image:
    """A picture of all previews: a row per step, from the first to the last, and a column per prompt.

    Args:
        rows: ``(step, pictures)``, in order of the steps.
        captions: The prompts, above their columns; none leaves the heading out.
        side: Longer side of a picture in the sheet, in pixels; less where there are many columns.

    Raises:
        DataError: There is no picture.
    """
    shown = [rows[n] for n in evenly(len(rows), most_rows)]
    pictures = [picture for _, row in shown for picture in row]
    if not pictures:
        raise DataError(
            "There are no previews to show.",
            found="no picture",
            expected="at least one",
            remedy="Turn previews on: preview.every is the number of steps between them.",
        )
    columns = max(len(row) for _, row in shown)
    side = max(48, min(side, (_WIDEST - _LABEL) // columns - _GAP))
    cell = _cell(pictures, side)
    letters = font(max(11, side // 18))
    heading = 2 * round(1.4 * letters.size) + 12 if captions else _GAP
    size = (_LABEL + columns * (cell[0] + _GAP), heading + len(shown) * (cell[1] + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions[:columns]):
        text = wrapped(caption, pen, letters, cell[0])
        place = (_LABEL + column * (cell[0] + _GAP), heading - 4)
        pen.text(place, text, fill=_FAINT, font=letters, anchor="ld", spacing=2)
    for number, (step, row) in enumerate(shown):
        top = heading + number * (cell[1] + _GAP)
        pen.text((_LABEL - 10, top + cell[1] // 2), f"{step:,}", fill=_INK, font=font(15), anchor="rm")
        for column, picture in enumerate(row):
            sheet.paste(_fitted(picture, cell), (_LABEL + column * (cell[0] + _GAP), top))
    return sheet


def _cell(pictures: Sequence[Image.Image], side: int) -> tuple[int, int]:
    """Width and height of the smallest box that holds every picture, its longer side scaled to ``side`` pixels."""
    widths, heights = zip(*(ImageOps.contain(picture, (side, side)).size for picture in pictures), strict=True)
    return max(widths), max(heights)


def _fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """The whole picture in the middle of the cell."""
    return ImageOps.pad(picture.convert("RGB"), cell, Image.Resampling.LANCZOS, color=_PAPER)
