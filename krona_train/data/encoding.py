"""From pictures and captions to the items that a training draws from; each caption and each cut is encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from torch import Tensor

from krona_ops.errors import DataError

from ..batches.examples import Example, Group, Item
from .buckets import PictureSize, Size, View, views
from .cache import Cache
from .captions import class_caption, orders
from .grouping import size_of_group
from .pictures import Dataset, Picture, PictureGroup
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
) -> tuple[Item | Group, ...]:
    """The items of a data set's pictures, in their order; those of a group are one `Group`.

    All pictures of a group become one size, the bucket that is nearest to the mean of their shapes, and are cut to it
    from the middle. Where mirrored pictures are trained on too, a group is mirrored as a whole.

    Args:
        resolution: Side in pixels of a square of the same area.
        cache: Where encodings are found and kept; they are made again each time without one.
        seed: Of the orders of captions.
        with_class: Encode each caption's class as well (`Example.class_condition`).

    Raises:
        DataError: A picture or mask has gone, does not fit, or becomes NaN; or the class is wanted and not known.
    """
    settings = dataset.settings
    sizes: dict[PictureGroup | None, Size] = {}
    for group in dataset.groups:
        progress(0, len(dataset.pictures), group[0].name)
        sizes[group[0].group] = size_of_group(group, resolution, settings)
    jobs = [
        _Job(
            picture,
            orders(picture.caption, max(1, settings.shuffles), settings.keep_tags, seed),
            settings.caption_dropout > 0,
            crops=settings.crops,
            flip=settings.flip,
            size=sizes.get(picture.group),
        )
        for picture in dataset.pictures
    ]
    name_class = (lambda c: class_caption(c, dataset.trigger, dataset.class_prompt)) if with_class else None
    items = _encode(jobs, dataset, resolution, Store(encoder, cache), progress, name_class)
    return tuple(_grouped(dataset.pictures, items, 2 if settings.flip else 1))


def _grouped(pictures: Sequence[Picture], items: Sequence[Item], cuts: int) -> Iterator[Item | Group]:
    """The items of some pictures, those of a group as one.

    Args:
        cuts: Of each picture of a group.
    """
    for group, pairs in groupby(zip(pictures, items, strict=True), key=lambda pair: pair[0].group):
        members = tuple(item for _, item in pairs)
        if group is None:
            yield from members
        else:
            # A group comes as often as each of its members would.
            alone = tuple(replace(item, repeats=1) for item in members)
            yield Group(alone, repeats=members[0].repeats, cuts=cuts)


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
    jobs = [_Job(picture, (picture.caption,)) for picture in dataset.class_pictures]
    return _encode(jobs, dataset, resolution, Store(encoder, cache), progress, None)


@dataclass(frozen=True)
class _Job:
    """A picture, and which forms of it are encoded."""

    picture: Picture
    captions: tuple[str, ...]
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
    resolution: int,
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
        for view in _views(content, job, dataset, resolution):
            progress(done, total, job.picture.name)
            seen += _see(content, view, store)
        items.append(_item(job, _require_some(seen, job.picture), classes, store))
    progress(total, total, "")
    store.close()
    return tuple(items)


def _views(content: Content, job: _Job, dataset: Dataset, resolution: int) -> tuple[View, ...]:
    settings = dataset.settings
    cuts = views(
        *content.size,
        resolution,
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
