"""One picture that shows where cameras stand, and the maps of rays that they make."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from krona_ops.branches.cameras import Cameras
from krona_ops.branches.rays import conditions

from .contact_sheet import BRIGHT, CUT, FAINT, GROUND, TILE
from .lettering import font

LIMIT = 24
"""Views at most; a line says how many are left out."""


def camera_sheet(cameras: Cameras, side: int = 128, columns: int = 6) -> Image.Image:
    """A plan of all cameras, then a tile for each view: its direction map above, what is beside it below.

    The three numbers of a direction are red, green and blue: 0 is half of each, so that a map without change is a plain
    colour. Below is where the camera stands (orthographic) or the moment of its rays (perspective).

    Args:
        side: Of the longer side of a map, in pixels.
        columns: Tiles in a row, at most.
    """
    scale = side / max(cameras.width, cameras.height)
    small_width, small_height = (max(1, round(length * scale)) for length in (cameras.width, cameras.height))
    shown = replace(cameras, views=cameras.views[:LIMIT], width=small_width, height=small_height)
    maps = (conditions(shown) * 255).round().byte().permute(0, 2, 3, 1).numpy()  # (V, h, w, 6)
    gap, text = max(2, side // 32), max(9, side // 11)
    letters, line = font(text), text + 4
    height, width = 2 * shown.height + gap + line, max(shown.width, 8 * text)
    across = min(columns, len(shown.views))
    rows = -(-len(shown.views) // across)
    plan = _plan(cameras, max(height, 2 * side))
    left = plan.width + 2 * gap
    hidden = len(cameras.views) - len(shown.views)
    size = (
        left + across * (width + gap),
        max(rows * (height + 2 * gap) + (line if hidden else 0), plan.height + gap) + gap,
    )
    sheet = Image.new("RGB", size, GROUND)
    sheet.paste(plan, (gap, gap))
    pen = ImageDraw.Draw(sheet)
    for number, (view, each) in enumerate(zip(shown.views, maps, strict=True)):
        row, column = divmod(number, across)
        x, y = left + column * (width + gap), gap + row * (height + 2 * gap)
        pen.rectangle((x, y, x + width - 1, y + height + gap - 1), fill=TILE)
        middle = x + (width - shown.width) // 2
        sheet.paste(Image.fromarray(np.ascontiguousarray(each[..., :3])), (middle, y))
        sheet.paste(Image.fromarray(np.ascontiguousarray(each[..., 3:])), (middle, y + shown.height + gap))
        pen.text((x + gap, y + 2 * shown.height + gap), _label(number, view), fill=BRIGHT, font=letters)
    if hidden:
        pen.text((left, size[1] - line - gap), f"and {hidden} more", fill=FAINT, font=letters)
    return sheet


def _label(number: int, view: tuple[float, float]) -> str:
    azimuth, elevation = view
    return f"{number + 1}: {azimuth:g}°, {elevation:g}°"


def _plan(cameras: Cameras, side: int) -> Image.Image:
    """The cameras from above: a dot for each with its number, the front below, the nearer to the middle the higher or
    lower it stands."""
    plan = Image.new("RGB", (side, side), TILE)
    pen = ImageDraw.Draw(plan)
    middle, reach, dot = side / 2, side * 0.38, max(3, side // 40)
    pen.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), outline=FAINT)
    pen.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill=FAINT)
    letters = font(max(9, side // 16))
    lowest = min(abs(elevation) for _, elevation in cameras.views)  # their numbers stand outside, others' inside
    for number, (azimuth, elevation) in enumerate(cameras.views[:LIMIT]):
        turn = math.radians(azimuth)
        away = reach * math.cos(math.radians(elevation))
        x, y = middle + away * math.sin(turn), middle + away * math.cos(turn)
        pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=CUT)
        beyond = away + (3 * dot + 2) * (1 if abs(elevation) == lowest else -1)
        place = (middle + beyond * math.sin(turn), middle + beyond * math.cos(turn))
        pen.text(place, str(number + 1), fill=BRIGHT, font=letters, anchor="mm")
    return plan
