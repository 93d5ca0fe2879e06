"""A sheet of judged pictures: those of the subject first, then the drawn ones, each with its prompt and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..drawing.lettering import font, wrapped
from .measures import Scores

GROUND, TILE, FAINT, BRIGHT, REAL = "#17181b", "#232529", "#9aa0a8", "#f2f2f2", "#5ec8ff"
LINES, SCORE_LINES = 2, 4
"""Lines of a prompt, and of its picture's scores."""


def score_sheet(
    scores: Scores,
    images: Sequence[Tensor],
    references: Sequence[Tensor],
    side: int = 192,
    columns: int = 6,
    limit: int = 60,
) -> Image.Image:
    """Tiles of pictures with their prompts and scores.

    Args:
        images, references: What was judged, each ``(H, W, 3)`` in [0, 1].
        side: Of a picture's square, in pixels.
        limit: Tiles at most; the last one says how many pictures are left out.
    """
    real = [_tile(image, side, "the subject", {}, REAL) for image in references[:columns]]
    shown = len(images) if len(images) <= limit else limit - 1
    drawn = [_tile(images[n], side, scores.prompts[n], scores.of(n), BRIGHT) for n in range(shown)]
    if shown < len(images):
        drawn.append(_tile(None, side, f"and {len(images) - shown} more", {}, BRIGHT))
    rows = [real, *(drawn[start : start + columns] for start in range(0, len(drawn), columns))]
    gap, height = side // 24, real[0].height
    size = (max(map(len, rows)) * (side + gap) + gap, len(rows) * (height + gap) + gap)
    sheet = Image.new("RGB", size, GROUND)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (gap + x * (side + gap), gap + y * (height + gap)))
    return sheet


def _tile(image: Tensor | None, side: int, prompt: str, scores: dict[str, float], colour: str) -> Image.Image:
    size = max(9, side // 16)
    letters = font(size)
    # NaN, which is not equal to itself, is left out: the prompt says nothing of it.
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if value == value)
    tile = Image.new("RGB", (side, side + (LINES + SCORE_LINES) * (size + 4) + 8), TILE)
    if image is not None:
        pixels = (image[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        scale = side / max(picture.size)
        # The few pixels of a small world's pictures are kept visible; photographs are made smaller.
        how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)
        tile.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    pen = ImageDraw.Draw(tile)
    top = side + 4
    for text, ink, lines in ((prompt, colour, LINES), (numbers, FAINT, SCORE_LINES)):
        pen.multiline_text((4, top), wrapped(text, pen, letters, side - 8, lines), fill=ink, font=letters, spacing=4)
        top += lines * (size + 4)
    return tile
