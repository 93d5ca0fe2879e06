"""From pictures and captions to the items that a training draws from; each caption and each cut is encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from types import MappingProxyType

from torch import Tensor

from krona_ops.errors import DataError

from ..batches.examples import Example, Group, Item
from .buckets import PictureSize, Size, View, views
from .cache import Cache
from .captions import class_caption, orders
from .grouping import size_of_group
from .pictures import Dataset, Picture
from .pixels import Content, cut, to_grid
from .store import Encoder, Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Gets how many pictures and captions are done, how many there are, and what comes next. It may raise, to cancel."""


def encode(
    dataset: Dataset,
    resolution: int,
    encoder: Encoder,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, what: None,
    *,
    seed: int = 0,
    with_class: bool = False,
    sizes: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Item | Group, ...]:
    """The items of a data set's pictures, in their order; those of a group are one `Group`, and where there are several
    sizes, each picture or group is an item of its own at each of them, one after the other.

    All pictures of a group become one size, the bucket that is nearest to the mean of their shapes, and are cut to it
    from the middle. Where mirrored pictures are trained on too, a group is mirrored as a whole.

    Args:
        resolution: Side in pixels of a square of the same area.
        cache: Where encodings are found and kept; they are made again each time without one.
        seed: Of the orders of captions.
        with_class: Encode each caption's class as well (`Example.class_condition`).
        sizes: Instead of the resolution several, each with how often a picture comes at it against the others.

    Raises:
        DataError: A picture or mask has gone, does not fit, or becomes NaN; or the class is wanted and not known.
    """
    settings = dataset.settings
    trained_at = [
        _Together(pictures, side, weight, is_again=number > 0)
        for pictures in _together(dataset.pictures)
        for number, (side, weight) in enumerate((sizes or {resolution: 1}).items())
    ]
    jobs: list[_Job] = []
    for each in trained_at:
        size = None
        if each.pictures[0].group is not None:
            progress(0, len(dataset.pictures), each.pictures[0].name)
            size = size_of_group(each.pictures, each.resolution, settings)
        for picture in each.pictures:
            captions = orders(picture.caption, max(1, settings.shuffles), settings.keep_tags, seed)
            is_dropped = settings.caption_dropout > 0
            jobs.append(_Job(picture, captions, each.resolution, is_dropped, settings.crops, settings.flip, size))
    name_class = (lambda c: class_caption(c, dataset.trigger, dataset.class_prompt)) if with_class else None
    items = iter(_encode(jobs, dataset, Store(encoder, cache), progress, name_class))
    cuts = 2 if settings.flip else 1
    return tuple(each.item(tuple(islice(items, len(each.pictures))), cuts) for each in trained_at)


def _together(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, ...]]:
    """The pictures of each group, and each that stands alone."""
    for group, members in groupby(pictures, key=lambda picture: picture.group):
        if group is None:
            yield from ((picture,) for picture in members)
        else:
            yield tuple(members)


@dataclass(frozen=True)
class _Together:
    """A picture that stands alone, or those of a group, at one of the sizes that are trained."""

    pictures: tuple[Picture, ...]
    resolution: int
    weight: int
    is_again: bool

    def item(self, encoded: tuple[Item, ...], cuts: int) -> Item | Group:
        """The item, or the group, of its pictures' items.

        Args:
            cuts: Of each picture of a group.
        """
        repeats = encoded[0].repeats * self.weight
        if self.pictures[0].group is None:
            return replace(encoded[0], repeats=repeats, is_again=self.is_again)
        # A group comes as often as each of its members would.
        alone = tuple(replace(item, repeats=1) for item in encoded)
        return Group(alone, repeats=repeats, cuts=cuts, is_again=self.is_again)


def encode_class_pictures(
    dataset: Dataset,
    resolution: int,
    encoder: Encoder,
    cache: Cache | None = None,
    progress: Progress = lambda done, total, what: None,
) -> tuple[Item, ...]:
    """The items of a data set's class pictures: one cut each, captions as they are.

    Raises:
        DataError: There are no class pictures; or see `encode`.
    """
    if not dataset.class_pictures:
        raise DataError(
            "There are no class pictures.",
            found=0,
            expected="pictures of the subject's class",
            remedy="Name a folder in class_folder, or say in class_pictures how many shall be made.",
        )
    jobs = [_Job(picture, (picture.caption,), resolution) for picture in dataset.class_pictures]
    return _encode(jobs, dataset, Store(encoder, cache), progress, None)


@dataclass(frozen=True)
class _Job:
    """A picture, and which forms of it are encoded."""

    picture: Picture
    captions: tuple[str, ...]
    resolution: int
    dropped: bool = False
    """Also with an empty caption."""
    crops: int = 1
    flip: bool = False
    size: Size | None = None
    """Of the cuts, where the picture's group decides it."""


@dataclass(frozen=True)
class _Seen:
    """One cut of a picture, encoded."""

    latent: Tensor
    size: PictureSize
    mask: Tensor | None


def _encode(
    jobs: Sequence[_Job],
    dataset: Dataset,
    store: Store,
    progress: Progress,
    name_class: Callable[[str], str] | None,
) -> tuple[Item, ...]:
    classes = {caption: name_class(caption) for job in jobs for caption in job.captions} if name_class else {}
    captions = dict.fromkeys(caption for job in jobs for caption in job.captions) | dict.fromkeys(classes.values())
    captions |= {"": None} if any(job.dropped for job in jobs) else {}
    total = len(captions) + len(jobs)
    items: list[Item] = []
    for done, caption in enumerate(captions):  # all captions first: one large model is on the device at a time
        progress(done, total, f'caption "{caption}"')
        store.text(caption)
    for done, job in enumerate(jobs, len(captions)):
        seen: list[_Seen] = []
        content = Content(job.picture)
        for view in _views(content, job, dataset):
            progress(done, total, job.picture.name)
            seen += _see(content, view, store)
        items.append(_item(job, _require_some(seen, job.picture), classes, store))
    progress(total, total, "")
    store.close()
    return tuple(items)


def _views(content: Content, job: _Job, dataset: Dataset) -> tuple[View, ...]:
    settings = dataset.settings
    cuts = views(
        *content.size,
        job.resolution,
        buckets=settings.buckets,
        step=settings.bucket_step,
        crops=job.crops,
        flip=job.flip,
        size=job.size,
    )
    if cuts[0].scaled_width > 2 * content.size[0]:
        log.warning(
            "KronA: %s has only %d × %d pixels and is enlarged to %d × %d; what is learnt from it will look soft.",
            content.picture.name,
            *content.size,
            cuts[0].scaled_width,
            cuts[0].scaled_height,
        )
    return cuts


def _see(content: Content, view: View, store: Store) -> list[_Seen]:
    """One cut, encoded; an empty list where the mask leaves nothing of it."""
    mask = None if content.mask is None else cut(content.mask, view)
    if mask is not None and not mask.any():
        return []
    latent = store.latent(content, view)
    grid = None if mask is None else to_grid(mask, tuple(latent.shape[1:]))
    return [_Seen(latent, PictureSize.of(*content.size, view), grid)]


def _require_some(seen: list[_Seen], picture: Picture) -> list[_Seen]:
    """
    Raises:
        DataError: The list is empty: the mask leaves nothing of any cut.
    """
    if not seen:
        raise DataError(
            "What the mask leaves of the picture is cut off, so nothing of it would be learnt.",
            where=picture.name,
            found="a mask that is white at the edge only",
            expected="white inside the cut",
            remedy="Turn buckets on, take more crops, or cut the picture around the subject yourself.",
        )
    return seen


def _item(job: _Job, seen: Sequence[_Seen], classes: Mapping[str, str], store: Store) -> Item:
    def condition(caption: str, view: _Seen) -> object:
        # A condition of its own for each picture and cut: models may look at the latent when they make it.
        return store.encoder.condition(store.text(caption), view.size, caption)

    def example(view: _Seen, caption: str, described: str) -> Example:
        of_class = condition(classes[described], view) if described in classes else None
        camera = job.picture.camera
        return Example(view.latent, condition(caption, view), caption, view.mask, of_class, camera=camera)

    forms = tuple(example(view, caption, caption) for view in seen for caption in job.captions)
    uncaptioned = tuple(example(view, "", job.captions[0]) for view in seen) if job.dropped else ()
    return Item(forms, uncaptioned, job.picture.repeats)
