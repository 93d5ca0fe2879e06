"""The pictures of a training, read from where its choices say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from krona_ops.errors import DataError

from ..settings.groups import DataConfig, PriorConfig
from .choices import PictureFiles
from .folder import Progress, read_folder, tell
from .notices import Notice, below
from .pictures import Dataset


def read_pictures(pictures: PictureFiles, settings: DataConfig, progress: Progress = lambda done, total, what: None) -> Dataset:
    """The pictures, found and read; the log says what of the folders is not used.

    Raises:
        DataError: No folder is named, or it does not exist, has no readable pictures, or a caption or mask cannot be used.
    """
    if not pictures.folder:  # as in the run.yaml of pictures that came from a graph
        raise DataError(
            "No folder with pictures is named.",
            where="pictures",
            found="nothing",
            expected="the path of a folder",
            remedy="Add folder: /path/to/pictures below pictures:.",
        )
    found = read_folder(
        pictures.folder,
        pictures.prompt,
        captions=pictures.captions,
        masks=settings.masks,
        repeats=pictures.repeats,
        progress=progress,
    )
    tell(found.notices)
    dataset = Dataset(
        found.pictures,
        settings.resolution,
        pictures.trigger,
        pictures.class_prompt,
        (),
        pictures.class_count,
        settings,
        notices=found.notices,
    )
    return replace(with_class_folder(dataset, pictures.class_folder, progress), source=pictures)


def with_class_folder(dataset: Dataset, folder: str, progress: Progress = lambda done, total, what: None) -> Dataset:
    """The data set with the class pictures of a folder; as it is where none is named.

    Raises:
        DataError: The folder cannot be used, or what its pictures show is not known.
    """
    if not folder:
        return dataset
    found = read_folder(folder, dataset.class_caption, progress=progress)
    notices = below(Path(folder).name, found.notices)
    tell(notices)
    return dataset.with_class_pictures(found.pictures, notices)


def unused_class_pictures(dataset: Dataset, prior: PriorConfig) -> tuple[Notice, ...]:
    """What there is to say where class pictures are named, and the settings have another prior or none."""
    if not dataset.class_pictures or (prior.weight > 0 and prior.source == "pictures"):
        return ()
    reason = "the prior is off" if prior.weight == 0 else "the prior is the model's own prediction"
    return (Notice("Class pictures are not used", reason, tuple(picture.name for picture in dataset.class_pictures)),)
