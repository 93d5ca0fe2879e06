"""A plot with the previews of a run below it, each at its step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw, ImageOps

from .lettering import font

LARGEST, SMALLEST = 128, 76
"""Limits of a thumbnail's longer side in pixels; between them it is as large as fits between its neighbours."""
MARGIN = LARGEST // 2 + 14
"""Pixels that the plot must leave free at its right, for the thumbnail of the last step."""
_GAP, _WIRE, _LABEL = 6, 16, 22
_FAINT, _LINE = "#6b717c", "#c3c8d0"

Place = tuple[float, int, Image.Image]
"""Where on the picture (pixels from the left), the step, the preview."""


def film_strip(plot: Image.Image, places: Sequence[Place]) -> Image.Image:
    """The plot with thumbnails below it, centred at their places and joined to them by a line.

    Where thumbnails would overlap some are left out, never the first and the last.

    Args:
        places: From left to right.
    """
    shown = thinned(places, SMALLEST + _GAP)
    side = _side([x for x, _, _ in shown])
    pictures = [picture.convert("RGB") for _, _, picture in shown]
    thumbnails = [ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS) for picture in pictures]
    top = plot.height + _WIRE
    height = max(thumbnail.height for thumbnail in thumbnails)
    strip = Image.new("RGB", (plot.width, top + height + _LABEL), "white")
    strip.paste(plot)
    pen, letters = ImageDraw.Draw(strip), font(12)
    for (x, step, _), thumbnail in zip(shown, thumbnails, strict=True):
        left = round(x - thumbnail.width / 2)
        pen.line([(round(x), plot.height - 6), (round(x), top - 3)], fill=_LINE, width=1)
        strip.paste(thumbnail, (left, top))
        pen.text((round(x), top + thumbnail.height + 5), f"{step:,}", fill=_FAINT, font=letters, anchor="mt")
    return strip


def thinned(places: Sequence[Place], distance: float) -> list[Place]:
    """Places that are at least a distance apart, the first and the last among them;
    only the last where those are closer."""
    *before, last = places
    kept: list[Place] = []
    for place in before:
        if last[0] - place[0] >= distance and (not kept or place[0] - kept[-1][0] >= distance):
            kept.append(place)
    return [*kept, last]


def _side(xs: Sequence[float]) -> int:
    """The largest side at which neighbours do not touch, within limits."""
    nearest = min((right - left for left, right in pairwise(xs)), default=LARGEST + _GAP)
    return max(SMALLEST, min(LARGEST, int(nearest) - _GAP))
