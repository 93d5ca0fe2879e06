"""Where the pictures of a training come from: the choices that a graph's node and a run's file share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from krona_ops.errors import DataError

from ..config import DataConfig
from .folder import Captions, from_folder
from .pictures import Dataset


@dataclass(frozen=True)
class PictureFiles:
    """Where the pictures are, and what they show: the choices of the node KronA Dataset."""

    folder: str = ""
    """With the pictures."""
    prompt: str = ""
    """What they show, where no text file says so."""
    captions: Captions = "files"
    """``files``: a picture's ``.txt`` file, else the prompt. ``prompt``: the prompt for all. ``folders``: the ``.txt`` file,
    else the name of a numbered subfolder."""
    trigger: str = ""
    """The rare word for the subject; what is left of a caption without it names the class."""
    class_prompt: str = ""
    """What the subject is a kind of."""
    class_folder: str = ""
    """Pictures of others of its kind."""
    class_count: int = 0
    """How many class pictures there shall be; the missing ones are drawn by the model."""
    repeats: int = 1
    """How often each picture comes per epoch."""


def read_pictures(pictures: PictureFiles, settings: DataConfig) -> Dataset:
    """The pictures, found and read.

    Raises:
        DataError: No folder is named, or it does not exist, has no readable pictures, or a caption or mask cannot be used.
    """
    if not pictures.folder:  # as in the run.yaml of pictures that came from a graph
        raise DataError(
            "No folder with pictures is named.",
            layer="pictures",
            found="nothing",
            expected="the path of a folder",
            remedy="Add folder: /path/to/pictures below pictures:.",
        )
    found = from_folder(
        pictures.folder, pictures.prompt, captions=pictures.captions, masks=settings.masks, repeats=pictures.repeats
    )
    dataset = Dataset(found, settings.resolution, pictures.trigger, pictures.class_prompt, (), pictures.class_count, settings)
    if pictures.class_folder:
        dataset = dataset.with_class_pictures(from_folder(pictures.class_folder, dataset.class_caption))
    return replace(dataset, source=pictures)
