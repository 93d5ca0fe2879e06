"""Which sizes pictures are trained at, and where each picture is cut: integers only, no pixels.

Aspect-ratio buckets as NovelAI introduced them and SDXL was trained with (Podell et al. 2023, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log

STEP = 8
"""Pixels per side of what one value of a latent covers; every size is a multiple of it."""
WIDEST = 4.0
"""Longer side over shorter side of the most elongated bucket."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class View:
    """One cut of a picture that was scaled to cover what is trained on, all in pixels."""

    width: int
    """Of the cut: what is trained on."""
    height: int
    scaled_width: int
    """Of the whole picture after scaling."""
    scaled_height: int
    left: int
    """Of the cut in the scaled picture, which is mirrored first where `flip` says so."""
    top: int
    flip: bool = False

    @property
    def kept(self) -> float:
        """The share of the picture's area that is left."""
        return self.width * self.height / (self.scaled_width * self.scaled_height)


@dataclass(frozen=True)
class PictureSize:
    """How a training picture was cut, in pixels: a part of the condition of SDXL-type models."""

    width: int
    """Of the picture before it was scaled."""
    height: int
    crop_left: int
    crop_top: int
    target_width: int
    target_height: int

    @classmethod
    def of(cls, width: int, height: int, view: View) -> PictureSize:
        """The size of a picture of ``width`` × ``height`` pixels and of one of its views."""
        return cls(width, height, view.left, view.top, view.width, view.height)

    def entries(self) -> dict[str, int]:
        """As the host's conditioning spells them (SDXL, Podell et al. 2023, section 2.2)."""
        return {
            "width": self.width, "height": self.height, "crop_w": self.crop_left, "crop_h": self.crop_top,
            "target_width": self.target_width, "target_height": self.target_height,
        }  # fmt: skip


@lru_cache(maxsize=64)
def bucket_sizes(resolution: int, step: int = 64) -> tuple[Size, ...]:
    """All sizes ``(width, height)`` of at most ``resolution²`` pixels whose sides are multiples of ``step``.

    They are up to 4 times as long as wide. Each is as high as its width allows, or as wide as its height allows. The
    square is always one of them.
    """
    side = square_side(resolution)
    step = min(step, side)
    sizes = {(side, side)}
    for width in range(step, int(side * WIDEST**0.5) + step, step):
        height = side * side // width // step * step
        if height and max(width, height) <= WIDEST * min(width, height):
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def square_side(resolution: int) -> int:
    """The side of a resolution's square in pixels, rounded down to a multiple of `STEP`."""
    return max(STEP, resolution // STEP * STEP)


def nearest_size(width: float, height: float, sizes: tuple[Size, ...]) -> Size:
    """The size whose shape is nearest to a picture's, so that least is cut off; of two equally near, the larger."""
    return min(sizes, key=lambda size: (round(abs(log(width * size[1] / (height * size[0]))), 9), -size[0] * size[1]))


def common_size(pictures: Sequence[Size], resolution: int, *, buckets: bool = True, step: int = 64) -> Size:
    """The one size to which all pictures of a group are cut: the one nearest to the mean of their shapes.

    The mean is that of the logarithms of width over height, so an upright and a wide picture of the same proportions
    meet in the square. Pictures of one shape get the size that each would have alone.

    Args:
        pictures: Their widths and heights, in their own pixels.
        resolution: Side in pixels of a square of the same area.
        buckets: Whether to keep the shape; else the size is the square.
        step: The sides of buckets are multiples of this many pixels.
    """
    if not buckets:
        return square_side(resolution), square_side(resolution)
    shape = exp(sum(log(width / height) for width, height in pictures) / len(pictures))
    return nearest_size(shape, 1.0, bucket_sizes(resolution, step))


def views(
    width: int,
    height: int,
    resolution: int,
    *,
    buckets: bool = True,
    step: int = 64,
    crops: int = 1,
    flip: bool = False,
    size: Size | None = None,
) -> tuple[View, ...]:
    """How a picture is cut, all cuts of one size: spread evenly over what does not fit, one cut from the middle.

    There are fewer cuts where fewer different ones exist. With ``flip`` each is followed by its mirror image.

    Args:
        width: Of the picture, in its own pixels.
        height: Of the picture, in its own pixels.
        resolution: Side in pixels of a square of the same area.
        buckets: Whether to keep the picture's shape; else the cuts are squares.
        step: The sides of buckets are multiples of this many pixels.
        crops: Cuts at most, mirror images not counted.
        size: Of the cuts, where it is not the picture's shape that decides it: `common_size` of its group.
    """
    side = square_side(resolution)
    own = nearest_size(width, height, bucket_sizes(resolution, step)) if buckets else (side, side)
    wide, high = size or own
    scale = max(wide / width, high / height)
    scaled = (max(wide, round(width * scale)), max(high, round(height * scale)))
    count = min(crops, max(scaled[0] - wide, scaled[1] - high) + 1)
    places = zip(_spread(scaled[0] - wide, count), _spread(scaled[1] - high, count), strict=True)
    straight = [View(wide, high, *scaled, left, top) for left, top in dict.fromkeys(places)]
    return tuple(view for plain in straight for view in ((plain, mirrored(plain)) if flip else (plain,)))


def mirrored(view: View) -> View:
    """The view with the mirrored pixels of ``view``: the picture is mirrored first and cut on the other side."""
    left = view.scaled_width - view.width - view.left
    return View(view.width, view.height, view.scaled_width, view.scaled_height, left, view.top, not view.flip)


def _spread(excess: int, count: int) -> list[int]:
    """``count`` whole numbers from 0 to ``excess``, evenly spread; a single one is the middle."""
    return [excess // 2] if count == 1 else [round(excess * n / (count - 1)) for n in range(count)]
