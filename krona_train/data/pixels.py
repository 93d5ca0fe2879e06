"""Pictures and masks as pixels: read once, turned upright, scaled and cut."""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from krona_ops.errors import DataError

from .buckets import Size, View
from .opening import UNREADABLE, Facts, look, look_at, pixels, require_whole, why
from .pictures import Picture
from .tones import in_colour, in_grey

log = logging.getLogger(__name__)

_MOST_SCALED = 8
"""A picture is cut before it is scaled where all of it, scaled, would have more than this many times the cut's area."""


class Content:
    """The pixels of one picture. What is hashed is what is decoded, even if the file changes in between.

    Every property may raise a `DataError`: the file has gone or changed since the folder was read.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self._smaller: tuple[Size, Image.Image] | None = None

    @cached_property
    def _file(self) -> bytes:
        """The bytes of the picture's file; only where it is one."""
        source = self.picture.source
        assert not isinstance(source, Tensor)
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def digest(self) -> str:
        """A hash of the file's bytes, or of the pixels."""
        source = self.picture.source
        if isinstance(source, Tensor):
            values = source.detach().cpu().contiguous()
            kind = f"{tuple(values.shape)} {values.dtype} "
            return hashlib.sha256(kind.encode() + values.numpy().tobytes()).hexdigest()
        return hashlib.sha256(self._file).hexdigest()

    @cached_property
    def _facts(self) -> Facts:
        try:
            return look_at(self._file)
        except UNREADABLE as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def size(self) -> Size:
        """Width and height, upright; nothing is decoded for it."""
        source = self.picture.source
        return (source.shape[1], source.shape[0]) if isinstance(source, Tensor) else self._facts.size

    @cached_property
    def has_alpha(self) -> bool:
        """Whether the picture can be transparent anywhere."""
        return False if isinstance(self.picture.source, Tensor) else self._facts.has_alpha

    def _decode(self, least: Size | None) -> Image.Image:
        """Upright, RGB or RGBA, in full or as `krona_train.data.opening.pixels` says."""
        source = self.picture.source
        if isinstance(source, Tensor):
            return Image.fromarray((source.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        try:
            return in_colour(pixels(self._file, least))
        except UNREADABLE as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def _decoded(self) -> Image.Image:
        return self._decode(None)

    @cached_property
    def image(self) -> Image.Image:
        """The upright picture in RGB, whole; what is transparent lies on white."""
        return _on_white(self._decoded)

    def scaled_to(self, width: int, height: int) -> Image.Image:
        """The upright picture in RGB, for scaling to so many pixels: a much larger JPEG is decoded smaller than it is.

        The picture of the last call is kept, for the next cut.
        """
        if isinstance(self.picture.source, Tensor) or not self._facts.is_jpeg or "image" in self.__dict__:
            return self.image
        if self._smaller is None or self._smaller[0] != (width, height):
            self._smaller = ((width, height), _on_white(self._decode((width, height))))
        return self._smaller[1]

    def cut(self, view: View) -> Tensor:
        """The pixels of a view, ``(height, width, 3)`` in [0, 1]; see `cut`."""
        return cut(self.scaled_to(view.scaled_width, view.scaled_height), view)

    @cached_property
    def mask(self) -> Image.Image | None:
        """Where the picture is learnt, of its own size: white counts. ``None`` where everything does.

        Raises:
            DataError: Also: the mask cannot be read, has another size than the picture, or is all black.
        """
        source = self.picture.mask
        if source is None:
            return None
        if isinstance(source, Tensor):
            mask = Image.fromarray((source.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        elif source == self.picture.source:
            mask = self._decoded.getchannel("A") if self._decoded.mode == "RGBA" else Image.new("L", self.size, 255)
        else:
            mask = _read_mask(source)
            _require_same_size(self.picture.name, self.size, source, mask.size)
        if mask.getextrema()[1] == 0:
            raise DataError(
                "The mask is all black, so nothing of the picture would be learnt.",
                where=f"{self.picture.name} ({'its transparency' if source is self.picture.source else _name(source)})",
                found="black",
                expected="white where the subject is",
                remedy="Paint the subject white, or remove the mask to learn the whole picture.",
            )
        return mask


def cut(image: Image.Image, view: View) -> Tensor:
    """The pixels of a view of an upright picture: ``(height, width, 3)`` in [0, 1], ``(height, width)`` of a mask."""
    # Masks are scaled without LANCZOS, which rings beyond an edge.
    smooth = Image.Resampling.LANCZOS if image.mode == "RGB" else Image.Resampling.BILINEAR
    left = view.scaled_width - view.width - view.left if view.flip else view.left
    box = (left, view.top, left + view.width, view.top + view.height)
    if view.kept * _MOST_SCALED < 1:
        image = _scaled_part(image, view, box, smooth)
    else:
        if image.size != (view.scaled_width, view.scaled_height):
            image = image.resize((view.scaled_width, view.scaled_height), smooth)
        image = image.crop(box)
    if view.flip:
        image = ImageOps.mirror(image)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)


def _scaled_part(
    image: Image.Image, view: View, box: tuple[int, int, int, int], smooth: Image.Resampling
) -> Image.Image:
    """What ``box`` cuts out of the scaled picture, without scaling all of it:
    4000 × 2 pixels would become a gigabyte."""
    across = _source(box[0], box[2], image.width, view.scaled_width)
    down = _source(box[1], box[3], image.height, view.scaled_height)
    size = (across[1] - across[0], down[1] - down[0])
    part = image.resize(size, smooth, box=(across[2], down[2], across[3], down[3]))
    return part.crop((box[0] - across[0], box[1] - down[0], box[2] - across[0], box[3] - down[0]))


def _source(start: int, end: int, pixels: int, scaled: int) -> tuple[int, int, float, float]:
    """A stretch of the scaled picture, widened by what its ends are mixed with, and its ends in the picture itself."""
    scale = pixels / scaled
    margin = ceil(3 * max(1.0, 1 / scale)) + 1  # LANCZOS reaches three pixels far, of the picture or of the result
    start, end = max(0, start - margin), min(scaled, end + margin)
    return start, end, start * scale, min(float(pixels), end * scale)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_grid(mask: Tensor, space: tuple[int, ...]) -> Tensor:
    """A mask ``(height, width)`` as the mean over each place of a latent: ``(*space)``."""
    means = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], (space[-2], space[-1]))[0, 0]
    return means.expand(space).contiguous()


def size_of(picture: Picture) -> Size:
    """Width and height, upright, by the file's header.

    Raises:
        DataError: The file has gone or changed since the folder was read.
    """
    source = picture.source
    if isinstance(source, Tensor):
        return source.shape[1], source.shape[0]
    try:
        return look(source).size
    except UNREADABLE as error:
        raise _gone(picture, error) from error


def is_readable(path: Path) -> bool:
    """Whether the file holds a whole picture; the log says why it does not."""
    try:
        look(path)
        require_whole(path)
    except UNREADABLE as error:
        log.warning("KronA: left out %s, it cannot be read: %s", path, why(error))
        return False
    return True


def check_mask_size(picture: Path, mask: Path) -> None:
    """See whether a mask has the size of its picture, by the headers of both.

    Raises:
        DataError: The mask has another size than the picture, or one of them cannot be read.
    """
    sizes = []
    for path in (picture, mask):
        try:
            sizes.append(look(path).size)
        except UNREADABLE as error:
            raise _no_mask(path, error) from error
    _require_same_size(picture.name, sizes[0], mask, sizes[1])


def _require_same_size(picture: str, size: Size, mask: Path, mask_size: Size) -> None:
    if size != mask_size:
        raise DataError(
            f"The mask {mask.name} has {mask_size[0]} × {mask_size[1]} pixels, the picture {size[0]} × {size[1]}.",
            where=picture,
            found=mask_size,
            expected=size,
            remedy="Save the mask in the picture's size, or remove it.",
        )


def _read_mask(path: Path) -> Image.Image:
    try:
        return in_grey(pixels(path.read_bytes()))
    except UNREADABLE as error:
        raise _no_mask(path, error) from error


def _name(source: Path | Tensor) -> str:
    return "a mask from the graph" if isinstance(source, Tensor) else source.name


def _gone(picture: Picture, error: Exception) -> DataError:
    return DataError(
        f"The picture can no longer be read: {why(error)}.",
        where=str(picture.source) if isinstance(picture.source, Path) else picture.name,
        found="a missing, changed or damaged file",
        expected="the picture that was there before",
        remedy="Put it back or save it again, or queue again without it.",
    )


def _no_mask(path: Path, error: Exception) -> DataError:
    return DataError(
        f"The mask cannot be read: {why(error)}.",
        where=str(path),
        found="no picture",
        expected="a PNG, white where the subject is",
        remedy="Save it again, or remove it to learn the whole picture.",
    )
