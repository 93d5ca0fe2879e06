"""One picture that shows what a training will see: every cut, mask, size, repeat and caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFont

from ..data.buckets import View, views
from ..data.captions import orders
from ..data.folder import Progress
from ..data.notices import Notice
from ..data.pictures import Dataset, Picture
from ..data.pixels import Content
from .lettering import font, wrapped

GROUND, TILE, FAINT, BRIGHT = "#17181b", "#232529", "#9aa0a8", "#f2f2f2"
CUT, CLASS, UNLEARNT = "#ffd54a", "#5ec8ff", "#e0245e"
MOST_NOTICES, LINES_OF_NAMES = 12, 4
"""Notices at most below the pictures, and lines of names in each; the console has all of it."""
ASSUMED = 1024
"""The resolution for which sizes are shown where the model decides and is not known yet."""


@dataclass(frozen=True)
class _Style:
    """Measures of one tile, in pixels."""

    side: int

    @property
    def gap(self) -> int:
        return max(2, self.side // 32)

    @property
    def text(self) -> int:
        return max(9, self.side // 19)

    @property
    def height(self) -> int:
        """Of the tile: the picture, up to two lines about it, two lines of caption."""
        return self.side + 4 * (self.text + 4) + 2 * self.gap

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        return font(self.text)


def contact_sheet(
    dataset: Dataset,
    side: int = 256,
    columns: int = 4,
    limit: int = 64,
    progress: Progress = lambda done, total, what: None,
) -> Image.Image:
    """A tile for each picture that will be trained on; class pictures come last, in blue, and below all the notices.

    Args:
        side: Of the square that holds one picture, in pixels.
        limit: Tiles at most; a last one says how many pictures are left out.
        progress: Gets how many tiles are drawn, how many there are, and which comes next; may raise to cancel.

    Raises:
        DataError: A picture or its mask cannot be read, or does not fit.
    """
    style = _Style(side)
    pictures = [(picture, False) for picture in dataset.pictures]
    pictures += [(picture, True) for picture in dataset.class_pictures]
    shown = pictures if len(pictures) <= limit else pictures[: limit - 1]
    tiles: list[Image.Image] = []
    for picture, is_class in shown:
        progress(len(tiles), len(shown), picture.name)
        tiles.append(_tile(picture, dataset, style, is_class))
    progress(len(tiles), len(shown), "")
    if len(shown) < len(pictures):
        tiles.append(_message(f"and {len(pictures) - len(shown)} more", style))
    if dataset.missing_class_pictures:
        tiles.append(_message(f"{dataset.missing_class_pictures} class pictures\nare made before the training", style))
    across = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // across)
    width, height = across * (side + style.gap) + style.gap, rows * (style.height + style.gap) + style.gap
    strip = _notice_strip(dataset.notices, max(width, 2 * side) if dataset.notices else width, style)
    sheet = Image.new("RGB", (max(width, strip.width), height + strip.height), GROUND)
    sheet.paste(strip, (0, height))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, across)
        sheet.paste(tile, (style.gap + column * (side + style.gap), style.gap + row * (style.height + style.gap)))
    return sheet


def _notice_strip(notices: Sequence[Notice], width: int, style: _Style) -> Image.Image:
    """The notices as text over the whole width: reasons in yellow, then the files' names; empty without notices."""
    if not notices:
        return Image.new("RGB", (width, 0), GROUND)
    letters, line = style.font, style.text + 4
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    room = width - 4 * style.gap
    lines: list[tuple[str, str]] = []
    for notice in notices[:MOST_NOTICES]:
        head = wrapped(f"{notice.what} ({len(notice.names)}), {notice.reason}:", pen, letters, room, 4)
        names = wrapped(", ".join(notice.names), pen, letters, room, LINES_OF_NAMES)
        lines += [(CUT, text) for text in head.splitlines()] + [(FAINT, text) for text in names.splitlines()]
    if len(notices) > MOST_NOTICES:
        lines.append((CUT, f"and {len(notices) - MOST_NOTICES} more reasons, see the console"))
    strip = Image.new("RGB", (width, len(lines) * line + 3 * style.gap), GROUND)
    ImageDraw.Draw(strip).rectangle((style.gap, 0, width - style.gap - 1, strip.height - style.gap - 1), fill=TILE)
    pen = ImageDraw.Draw(strip)
    for number, (colour, text) in enumerate(lines):
        pen.text((2 * style.gap, style.gap + number * line), text, fill=colour, font=letters)
    return strip


def _tile(picture: Picture, dataset: Dataset, style: _Style, is_class: bool) -> Image.Image:
    """One picture with what is known of it (size, repeats, cuts, mask) and its caption."""
    settings = dataset.settings
    content = Content(picture)
    resolution = dataset.resolution or ASSUMED
    crops, flip = (1, False) if is_class else (settings.crops, settings.flip)
    cuts = views(*content.size, resolution, buckets=settings.buckets, step=settings.bucket_step, crops=crops, flip=flip)
    straight = [view for view in cuts if not view.flip]
    tile = Image.new("RGB", (style.side, style.height), TILE)
    small = _drawn(content, straight, style.side, CLASS if is_class else CUT)
    tile.paste(small, ((style.side - small.width) // 2, (style.side - small.height) // 2))
    pen = ImageDraw.Draw(tile)
    facts = [f"{cuts[0].width} × {cuts[0].height}" + ("" if dataset.resolution else f" (at {ASSUMED})")]
    facts += ["class"] if is_class else []
    facts += [f"×{picture.repeats}"] if picture.repeats > 1 else []
    facts += [f"{len(straight)} cuts"] if len(straight) > 1 else []
    facts += ["mirrored"] if flip else []
    facts += ["masked"] if picture.mask is not None else []
    left, top, width = style.gap, style.side + style.gap, style.side - 2 * style.gap
    about = wrapped(" · ".join(facts), pen, style.font, width, 2)
    pen.text((left, top), about, fill=CLASS if is_class else FAINT, font=style.font, spacing=2)
    top += (style.text + 4) * len(about.splitlines())
    count = 1 if is_class else len(orders(picture.caption, max(1, settings.shuffles), settings.keep_tags))
    caption = picture.caption if count == 1 else f"({count} orders) {picture.caption}"
    text = wrapped(caption, pen, style.font, width, 2)
    pen.text((left, top), text, fill=BRIGHT, font=style.font, spacing=2)
    return tile


def _drawn(content: Content, cuts: list[View], side: int, colour: str) -> Image.Image:
    """The whole picture within a square of ``side``: cut-off parts dimmed, unlearnt parts tinted,
    every cut outlined."""
    width, height = content.size
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = content.scaled_to(*size).resize(size, Image.Resampling.LANCZOS)
    if content.mask is not None:
        unlearnt = ImageChops.invert(content.mask.resize(small.size, Image.Resampling.BILINEAR))
        tint = Image.new("RGB", small.size, UNLEARNT)
        small = Image.composite(Image.blend(small, tint, 0.6), small, unlearnt)
    boxes = [_box(view, small) for view in cuts]
    outside = Image.new("L", small.size, 255)
    for box in boxes:
        outside.paste(0, box)
    small = Image.composite(Image.blend(small, Image.new("RGB", small.size, GROUND), 0.72), small, outside)
    pen = ImageDraw.Draw(small)
    for left, top, right, bottom in boxes:
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=max(1, side // 128))
    return small


def _box(view: View, small: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a cut in the small picture."""
    across, down = small.width / view.scaled_width, small.height / view.scaled_height
    left, top = round(view.left * across), round(view.top * down)
    return left, top, left + max(1, round(view.width * across)), top + max(1, round(view.height * down))


def _message(text: str, style: _Style) -> Image.Image:
    """A tile with a text in the place of a picture."""
    tile = Image.new("RGB", (style.side, style.height), TILE)
    middle = (style.side // 2, style.side // 2)
    ImageDraw.Draw(tile).text(middle, text, fill=FAINT, font=style.font, anchor="mm", align="center")
    return tile
