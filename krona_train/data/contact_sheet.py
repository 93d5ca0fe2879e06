"""One picture that shows what a training will see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from .pictures import Picture, crop


def contact_sheet(pictures: Sequence[Picture], side: int = 256, columns: int = 4) -> Image.Image:
    """What will be trained on, at one look: each square with its caption below."""
    font = ImageFont.load_default(size=max(10, side // 18))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    label = side // 6
    sheet = Image.new("RGB", (columns * side, rows * (side + label)), "#202020")
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x, y = (index % columns) * side, (index // columns) * (side + label)
        square = (crop(picture, side).pixels * 255).round().to(torch.uint8).numpy()
        sheet.paste(Image.fromarray(square), (x, y))
        pen.text((x + 4, y + side + 3), _wrapped(picture.caption, pen, font, side - 8), fill="white", font=font, spacing=1)
    return sheet


def _wrapped(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text in at most two lines of a width, cut with an ellipsis."""
    lines, rest = [], text.split()
    while rest and len(lines) < 2:
        line = rest.pop(0)
        while rest and pen.textlength(f"{line} {rest[0]}", font=font) <= width:
            line = f"{line} {rest.pop(0)}"
        lines.append(line)
    return "\n".join(lines) + (" …" if rest else "")
