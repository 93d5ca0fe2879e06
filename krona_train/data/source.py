"""The pictures of a training, read from the folders that its choices name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from krona_ops.errors import DataError

from ..settings.groups import DataConfig, PriorConfig
from .choices import PictureFiles
from .folder import Progress, log_notices, read_folder
from .notices import Notice, below
from .pictures import Dataset


def read_pictures(
    pictures: PictureFiles, settings: DataConfig, progress: Progress = lambda done, total, what: None
) -> Dataset:
    """The data set of the folders that are named; the log says which of their files are not used.

    Raises:
        DataError: No folder is named, or it does not exist, has no readable pictures, or a caption or mask cannot be
            used.
    """
    if not pictures.folder:  # as in the run.yaml of pictures that came from a graph
        raise DataError(
            "No folder with pictures is named.",
            where="pictures",
            found="nothing",
            expected="the path of a folder",
            remedy="Add folder: /path/to/pictures below pictures:.",
        )
    reading = read_folder(
        pictures.folder,
        pictures.prompt,
        captions=pictures.captions,
        masks=settings.masks,
        repeats=pictures.repeats,
        groups=pictures.groups,
        progress=progress,
    )
    log_notices(reading.notices)
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
