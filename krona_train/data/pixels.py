"""Pictures and masks as pixels: read once, turned upright, scaled and cut."""

from __future__ import annotations

import hashlib
import io
import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from krona_ops.errors import DataError

from .buckets import Size, View
from .pictures import Picture

log = logging.getLogger(__name__)

UNREADABLE = (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError, EOFError)
"""What Pillow raises about files that are no picture, or half of one."""
_LYING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class Content:
    """One picture: what is hashed is what is decoded, even if the file changes in between.

    Every property may raise a `DataError`: the file has gone or changed since it was found.
    """

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    @cached_property
    def _file(self) -> bytes:
        try:
            return Path(self.picture.source).read_bytes()  # type: ignore[arg-type]
        except OSError as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def digest(self) -> str:
        """A hash of the file's bytes, or of the pixels."""
        source = self.picture.source
        if isinstance(source, Tensor):
            values = source.detach().cpu().contiguous()
            return hashlib.sha256(f"{tuple(values.shape)} {values.dtype} ".encode() + values.numpy().tobytes()).hexdigest()
        return hashlib.sha256(self._file).hexdigest()

    @cached_property
    def size(self) -> Size:
        """Width and height, upright; nothing is decoded for it."""
        source = self.picture.source
        if isinstance(source, Tensor):
            return (source.shape[1], source.shape[0])
        try:
            with Image.open(io.BytesIO(self._file)) as image:
                return _upright_size(image)
        except UNREADABLE as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def has_alpha(self) -> bool:
        """Whether the picture can be transparent anywhere."""
        if isinstance(self.picture.source, Tensor):
            return False
        try:
            with Image.open(io.BytesIO(self._file)) as image:
                return image.has_transparency_data
        except UNREADABLE as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def _decoded(self) -> Image.Image:
        """Upright, RGB or RGBA."""
        source = self.picture.source
        if isinstance(source, Tensor):
            return Image.fromarray((source.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        try:
            with Image.open(io.BytesIO(self._file)) as image:
                upright = ImageOps.exif_transpose(image)
                return upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        except UNREADABLE as error:
            raise _gone(self.picture, error) from error

    @cached_property
    def image(self) -> Image.Image:
        """The upright picture in RGB; what is transparent lies on white."""
        if self._decoded.mode == "RGB":
            return self._decoded
        return Image.alpha_composite(Image.new("RGBA", self._decoded.size, "white"), self._decoded).convert("RGB")

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
                layer=f"{self.picture.name} ({'its transparency' if source is self.picture.source else _name(source)})",
                found="black",
                expected="white where the subject is",
                remedy="Paint the subject white, or remove the mask to learn the whole picture.",
            )
        return mask


def cut(image: Image.Image, view: View) -> Tensor:
    """The pixels of a view of an upright picture: ``(height, width, 3)`` in [0, 1], or ``(height, width)`` of a mask."""
    smooth = Image.Resampling.LANCZOS if image.mode == "RGB" else Image.Resampling.BILINEAR  # LANCZOS rings beyond the edge
    if image.size != (view.scaled_width, view.scaled_height):
        image = image.resize((view.scaled_width, view.scaled_height), smooth)
    if view.flip:
        image = ImageOps.mirror(image)
    image = image.crop((view.left, view.top, view.left + view.width, view.top + view.height))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)


def to_grid(mask: Tensor, space: tuple[int, ...]) -> Tensor:
    """A mask ``(height, width)`` as the mean over each place of a latent: ``(*space)``."""
    means = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], space[-2:])[0, 0]
    return means.expand(space).contiguous()


def is_readable(path: Path, *, decode: bool = True) -> bool:
    """Whether Pillow reads the file; without decoding this is a quick look."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            else:
                image.verify()
    except UNREADABLE as error:
        if decode:
            log.warning("KronA: left out %s, it cannot be read: %s", path, error)
        return False
    return True


def check_mask_size(picture: Path, mask: Path) -> None:
    """
    Raises:
        DataError: The mask has another size than the picture, or one of them cannot be read.
    """
    sizes = []
    for path in (picture, mask):
        try:
            with Image.open(path) as image:
                sizes.append(_upright_size(image))
        except UNREADABLE as error:
            raise _no_mask(path, error) from error
    _require_same_size(picture.name, sizes[0], mask, sizes[1])


def _require_same_size(picture: str, size: Size, mask: Path, mask_size: Size) -> None:
    if size != mask_size:
        raise DataError(
            f"The mask {mask.name} has {mask_size[0]} × {mask_size[1]} pixels, the picture {size[0]} × {size[1]}.",
            layer=picture,
            found=mask_size,
            expected=size,
            remedy="Save the mask in the picture's size, or remove it.",
        )


def _read_mask(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips instead of scaling
                return Image.fromarray((np.asarray(upright, dtype=np.float32) / 257).round().astype(np.uint8))
            return upright.convert("L")
    except UNREADABLE as error:
        raise _no_mask(path, error) from error


def _upright_size(image: Image.Image) -> Size:
    lying = image.getexif().get(ExifTags.Base.Orientation) in _LYING
    return (image.height, image.width) if lying else image.size


def _name(source: Path | Tensor) -> str:
    return "a mask from the graph" if isinstance(source, Tensor) else source.name


def _gone(picture: Picture, error: Exception) -> DataError:
    return DataError(
        f"The picture can no longer be read: {error}.",
        layer=str(picture.source) if isinstance(picture.source, Path) else picture.name,
        found="a missing or changed file",
        expected="the picture that was there before",
        remedy="Put it back, or queue again without it.",
    )


def _no_mask(path: Path, error: Exception) -> DataError:
    return DataError(
        f"The mask cannot be read: {error}.",
        layer=str(path),
        found="no picture",
        expected="a PNG, white where the subject is",
        remedy="Save it again, or remove it to learn the whole picture.",
    )
