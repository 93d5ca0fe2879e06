"""The pictures of a training, or its prompts, read from where its choices say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from krona_ops.errors import DataError

from ..settings.codec import to_yaml
from ..settings.groups import DataConfig, PriorConfig
from .choices import PictureFiles
from .folder import Progress, Reading, log_notices, read_folder
from .notices import Notice, below
from .pictures import Dataset
from .prompts import built_in_prompts, drawn_prompts, read_prompts, usable_prompts

MOST_LISTED = 5_000
"""Prompts in a ``run.yaml``; more have to be in a file of their own."""
ROOM = 100_000
"""Characters of a ``run.yaml`` that its pictures or prompts may take; there is as much again for all else."""


def read_pictures(
    pictures: PictureFiles, settings: DataConfig, progress: Progress = lambda done, total, what: None
) -> Dataset:
    """The data set of the folders that are named, or of prompts; the log says which files are not used.

    Raises:
        ConfigError: The settings are for pictures, and there are prompts.
        DataError: No folder is named, or it does not exist, has no readable pictures, or a caption or mask cannot be
            used; or the prompts cannot.
    """
    if pictures.is_of_prompts:
        return _read_prompts(pictures, settings, progress)
    if not pictures.folder:  # as in the run.yaml of pictures that came from a graph
        raise DataError(
            "No folder with pictures is named.",
            where="pictures",
            found="nothing",
            expected="the path of a folder",
            remedy="Add folder: /path/to/pictures below pictures:, or prompts: where no pictures are needed.",
        )
    reading = _read_folder(pictures, progress, masks=settings.masks)
    dataset = Dataset(
        reading.pictures,
        settings.resolution,
        pictures.trigger,
        pictures.class_prompt,
        (),
        pictures.class_count,
        settings,
        notices=reading.notices,
    )
    return replace(with_class_folder(dataset, pictures.class_folder, progress), source=pictures)


def _read_folder(pictures: PictureFiles, progress: Progress, *, masks: bool) -> Reading:
    reading = read_folder(
        pictures.folder,
        pictures.prompt,
        captions=pictures.captions,
        masks=masks,
        repeats=pictures.repeats,
        groups=pictures.groups,
        progress=progress,
    )
    log_notices(reading.notices)
    return reading


def _read_prompts(files: PictureFiles, settings: DataConfig, progress: Progress) -> Dataset:
    """The data set of the prompts that are named; of a folder's captions its notices stay."""
    notices: tuple[Notice, ...] = ()
    if files.prompts == "captions":
        reading = _read_folder(files, progress, masks=False)
        where, notices = Path(files.folder).name, reading.notices
        prompts = usable_prompts((picture.caption for picture in reading.pictures), where)
    elif files.prompts == "built-in":
        where, prompts = "prompts", built_in_prompts()
    elif files.prompts:
        where = "prompts"
        prompts = usable_prompts(files.prompts, where)
    else:
        where = files.prompts_file
        prompts = read_prompts(Path(files.prompts_file), where)
    return of_prompts(prompts, files, settings, where, notices)


def of_prompts(
    prompts: tuple[str, ...], files: PictureFiles, settings: DataConfig, where: str, notices: Sequence[Notice] = ()
) -> Dataset:
    """The data set of prompts that are there already; as many of them, and as large, as the choices say.

    Raises:
        ConfigError: The settings are for pictures.
        DataError: More are wanted than there are.
    """
    return Dataset(
        (),
        settings.resolution,
        settings=settings,
        source=files if _can_be_written(files) else None,
        notices=tuple(notices),
        prompts=drawn_prompts(prompts, files.prompt_count, files.prompt_seed, where),
        width=files.width,
        height=files.height,
    )


def _can_be_written(files: PictureFiles) -> bool:
    """Whether a ``run.yaml`` can hold the choices: a long list of prompts is more than settings may be."""
    few = isinstance(files.prompts, str) or (len(files.prompts) <= MOST_LISTED and sum(map(len, files.prompts)) < ROOM)
    return few and len(to_yaml(files)) <= ROOM


def with_class_folder(dataset: Dataset, folder: str, progress: Progress = lambda done, total, what: None) -> Dataset:
    """The data set with the class pictures of a folder added; unchanged where no folder is named.

    Raises:
        DataError: The folder cannot be used, or there is no caption for its pictures.
    """
    if not folder:
        return dataset
    reading = read_folder(folder, dataset.class_caption, progress=progress)
    notices = below(Path(folder).name, reading.notices)
    log_notices(notices)
    return dataset.with_class_pictures(reading.pictures, notices)


def unused_class_pictures(dataset: Dataset, prior: PriorConfig) -> tuple[Notice, ...]:
    """A notice where there are class pictures, and the settings have another prior or none."""
    if not dataset.class_pictures or (prior.weight > 0 and prior.source == "pictures"):
        return ()
    reason = "the prior is off" if prior.weight == 0 else "the prior is the model's own prediction"
    return (Notice("Class pictures are not used", reason, tuple(picture.name for picture in dataset.class_pictures)),)
