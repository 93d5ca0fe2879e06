"""Pictures that stay together: which groups are large enough, and the size that all pictures of one are cut to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from krona_ops.errors import DataError

from ..settings.groups import DataConfig
from .buckets import Size, common_size
from .notices import Notice, left_out
from .pictures import Picture
from .pixels import size_of

LEAST = 2
"""Pictures of a group."""
ALONE = "the only picture of its group, and groups have two or more"


def without_single_pictures(pictures: Sequence[Picture], where: str) -> tuple[tuple[Picture, ...], tuple[Notice, ...]]:
    """The pictures of groups that have two or more; those that have one are left out, and named.

    Args:
        where: They come from, for the error.

    Raises:
        DataError: No group has two.
    """
    groups = [tuple(group) for _, group in groupby(pictures, key=lambda picture: picture.group)]
    kept = tuple(picture for group in groups if len(group) >= LEAST for picture in group)
    if not kept:
        raise DataError(
            f"None of the {len(groups)} groups has two pictures.",
            where=where,
            found=f"{len(groups)} groups of one picture",
            expected=f"a group of {LEAST} pictures or more",
            remedy="Put the pictures of one subject or clip into one subfolder or one batch, or turn groups off.",
        )
    return kept, left_out((group[0].name, ALONE) for group in groups if len(group) < LEAST)


def size_of_group(pictures: Sequence[Picture], resolution: int, settings: DataConfig) -> Size:
    """Width and height to which all pictures of a group are cut, by the mean of their shapes; see `common_size`.

    Args:
        resolution: Side in pixels of a square of the same area.

    Raises:
        DataError: A picture has gone since its folder was read.
    """
    sizes = [size_of(picture) for picture in pictures]
    return common_size(sizes, resolution, buckets=settings.buckets, step=settings.bucket_step)
