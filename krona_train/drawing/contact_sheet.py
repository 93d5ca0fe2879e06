"""One picture that shows what a training will see: every cut, mask, size, repeat and caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import Image, ImageChops, ImageDraw, ImageFont

from krona_ops.errors import DataError

from ..data.buckets import Size, View, views
from ..data.captions import orders
from ..data.folder import Progress
from ..data.grouping import size_of_group
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


@dataclass(frozen=True)
class _Band:
    """Tiles in rows of their own; those of a group have a frame and its name above them."""

    label: str
    """Empty for pictures that stand alone."""
    tiles: list[Image.Image]

    def rows(self, across: int) -> int:
        return -(-len(self.tiles) // across)

    def top(self, style: _Style) -> int:
        """Height of what stands above the tiles."""
        return style.text + 4 + style.gap if self.label else 0

    def height(self, across: int, style: _Style) -> int:
        """Without the gap below it."""
        return self.top(style) + self.rows(across) * (style.height + style.gap)


def contact_sheet(
    dataset: Dataset,
    side: int = 256,
    columns: int = 4,
    limit: int = 64,
    progress: Progress = lambda done, total, what: None,
) -> Image.Image:
    """A tile for each picture that will be trained on; class pictures come last, in blue, and below all the notices.

    Groups stand in frames, with their names.

    Args:
        side: Of the square that holds one picture, in pixels.
        limit: Tiles at most; a last one says how many pictures are left out.
        progress: Gets how many tiles are drawn, how many there are, and which comes next; may raise to cancel.

    Raises:
        DataError: A picture or its mask cannot be read, or does not fit; or there are prompts and no pictures.
    """
    if dataset.prompts:
        raise DataError(
            "This data set has prompts and no pictures; a contact sheet shows pictures.",
            found=f"{len(dataset.prompts)} prompts",
            expected="pictures",
            remedy="Draw the sheet of a data set of pictures.",
        )
    style = _Style(side)
    pictures = [(picture, False) for picture in dataset.pictures]
    pictures += [(picture, True) for picture in dataset.class_pictures]
    shown = pictures if len(pictures) <= limit else pictures[: limit - 1]
    whole = {pictures[0].group: pictures for pictures in dataset.groups}
    bands: list[_Band] = []
    done = 0
    for group, pairs in groupby(shown, key=lambda pair: pair[0].group):
        size = None if group is None else size_of_group(whole[group], dataset.resolution or ASSUMED, dataset.settings)
        bands.append(_Band("" if group is None else f"{group.name} · {len(whole[group])} pictures", []))
        for picture, is_class in pairs:
            progress(done, len(shown), picture.name)
            bands[-1].tiles.append(_tile(picture, dataset, style, is_class, size))
            done += 1
    progress(done, len(shown), "")
    if not bands or bands[-1].label:
        bands.append(_Band("", []))
    if len(shown) < len(pictures):
        bands[-1].tiles.append(_message(f"and {len(pictures) - len(shown)} more", style))
    if dataset.missing_class_pictures:
        message = f"{dataset.missing_class_pictures} class pictures\nare made before the training"
        bands[-1].tiles.append(_message(message, style))
    return _laid_out(bands, columns, dataset.notices, style)


def _laid_out(bands: Sequence[_Band], columns: int, notices: Sequence[Notice], style: _Style) -> Image.Image:
    """The bands one below the other, and below them the notices.

    Args:
        columns: Tiles beside one another at most.
    """
    across = max(1, min(columns, max(len(band.tiles) for band in bands)))
    width = across * (style.side + style.gap) + style.gap
    height = sum(band.height(across, style) for band in bands) + style.gap
    strip = _notice_strip(notices, max(width, 2 * style.side) if notices else width, style)
    sheet = Image.new("RGB", (max(width, strip.width), height + strip.height), GROUND)
    sheet.paste(strip, (0, height))
    pen, edge, top = ImageDraw.Draw(sheet), style.gap // 2, style.gap
    for band in bands:
        bottom = top + band.height(across, style)
        if band.label:
            label = wrapped(band.label, pen, style.font, width - 2 * style.gap, 1)
            pen.rectangle((edge, top - edge, width - edge - 1, bottom - edge - 1), outline=FAINT)
            pen.text((style.gap, top), label, fill=BRIGHT, font=style.font)
        for number, tile in enumerate(band.tiles):
            row, column = divmod(number, across)
            left = style.gap + column * (style.side + style.gap)
            sheet.paste(tile, (left, top + band.top(style) + row * (style.height + style.gap)))
        top = bottom
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


def _tile(picture: Picture, dataset: Dataset, style: _Style, is_class: bool, size: Size | None) -> Image.Image:
    """One picture with what is known of it (size, repeats, cuts, mask, camera) and its caption.

    Args:
        size: That its group is cut to; ``None`` where it stands alone.
    """
    settings = dataset.settings
    content = Content(picture)
    resolution = dataset.resolution or ASSUMED
    crops, flip = (1, False) if is_class else (settings.crops, settings.flip)
    cuts = views(
        *content.size,
        resolution,
        buckets=settings.buckets,
        step=settings.bucket_step,
        crops=crops,
        flip=flip,
        size=size,
    )
    straight = [view for view in cuts if not view.flip]
    tile = Image.new("RGB", (style.side, style.height), TILE)
    small = _drawn(content, straight, style.side, CLASS if is_class else CUT)
    tile.paste(small, ((style.side - small.width) // 2, (style.side - small.height) // 2))
    pen = ImageDraw.Draw(tile)
    facts = [f"{cuts[0].width} × {cuts[0].height}" + ("" if dataset.resolution else f" (at {ASSUMED})")]
    if settings.resolutions and not is_class:
        facts.append(f"{len(settings.resolutions)} sizes, {min(settings.resolutions)} to {max(settings.resolutions)}")
    facts += ["class"] if is_class else []
    facts += [f"×{picture.repeats}"] if picture.repeats > 1 else []
    facts += [f"{len(straight)} cuts"] if len(straight) > 1 else []
    facts += ["mirrored"] if flip else []
    facts += ["masked"] if picture.mask is not None else []
    if picture.camera is not None:
        facts.append(f"azimuth {picture.camera.azimuth:g}°, elevation {picture.camera.elevation:g}°")
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
