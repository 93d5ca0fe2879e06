"""A picture with the reason why nothing was drawn: results must not be lost because a package that draws is missing."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from krona_ops.errors import ConfigError

from ..packages import load

log = logging.getLogger(__name__)


def drawn(feature: str, draw: Callable[[], Image.Image], size: tuple[int, int] = (900, 300)) -> Image.Image:
    """The picture that ``draw`` makes with matplotlib; where that cannot be loaded, a picture with the reason,
    also logged.

    Args:
        feature: What is drawn; the beginning of a sentence.
        draw: Draws; it imports what needs matplotlib itself.
        size: Width and height of the picture with the reason, in pixels.
    """
    try:
        load("matplotlib", feature, module="matplotlib.figure")
    except ConfigError as error:
        log.warning("KronA: %s", error)
        return _placard(str(error), size)
    return draw()


def _placard(reason: str, size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    lines = textwrap.fill(reason, max(20, size[0] // 11))
    ImageDraw.Draw(picture).multiline_text((24, 24), lines, fill="#22252b", font=ImageFont.load_default(18), spacing=8)
    return picture
