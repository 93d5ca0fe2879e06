"""What the node KronA Dataset does: pictures of a folder and of the graph become a data set, and a picture of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from krona_ops.errors import DataError
from krona_train.config import DataConfig
from krona_train.data.batches import WHERE, from_batches
from krona_train.data.choices import PictureFiles
from krona_train.data.folder import Progress, check_folder, files_of, log_notices
from krona_train.data.group_folders import list_groups, may_hold_groups
from krona_train.data.grouping import without_single_pictures
from krona_train.data.listing import list_folder
from krona_train.data.notices import Notice
from krona_train.data.pictures import Dataset, Picture
from krona_train.data.source import read_pictures, with_class_folder
from krona_train.drawing.contact_sheet import contact_sheet

from ..images import as_image
from ..wires import one
from . import paths
from .picture_choices import NODE, Choices
from .public import without_folders
from .reading import summary, tell_reading
from .text import tell

MOST_NAMES_ON_THE_NODE = 8


def mistake(folder: str) -> str:
    """What is wrong with a folder that is typed in, in words; empty if pictures can be read from it.

    The host does not say whether groups are wanted, so a folder of which only groups can be read is right here: reading
    it says the rest.
    """
    try:
        place = paths.picture_folder(folder)
    except DataError as error:
        return without_folders(str(error))
    try:
        check_folder(place, "…")
    except DataError as error:
        return "" if may_hold_groups(place) else without_folders(str(error))
    return ""


def fingerprint(folder: str | None, class_folder: str | None, *, groups: bool) -> list[object]:
    """Values that change when a file of the folders changes, or what is left out of them.

    Args:
        groups: The first folder is read as one of groups.
    """
    wanted = [(name, together) for name, together in ((folder, groups), (class_folder, False)) if name and name.strip()]
    places = [(paths.picture_folder(name), together) for name, together in wanted]
    files = [path for place, together in places for path in files_of(place, groups=together)]
    listings = [list_groups(place) if together else list_folder(place) for place, together in places]
    left_out = [notice.text() for listing in listings for notice in listing.notices]
    return [*((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files), *left_out]


def read(
    choices: Choices,
    prompts: list[str],
    images: list[torch.Tensor],
    masks: list[torch.Tensor],
    texts: list[str],
    node_id: str | None,
) -> Dataset:
    """The data set of the node's inputs.

    Args:
        prompts: One, or one for each connected picture.
        images: Connected pictures, each ``(batch, height, width, 3)`` from 0 to 1.
        masks: Of the connected pictures, each ``(batch, height, width)``.
        texts: Captions of the connected pictures.
        node_id: The node that shows how far the reading is.

    Raises:
        ConfigError: Several prompts are connected where one is needed.
        DataError: There are no pictures, or some cannot be used.
    """
    prompt, captions = _prompt_and_texts(prompts, texts, has_folder=bool(choices.folder.strip()))
    connected = from_batches(images, prompt, masks, captions, choices.repeats, groups=choices.groups) if images else ()
    alone: tuple[Notice, ...] = ()
    if connected and choices.groups:
        connected, alone = without_single_pictures(connected, WHERE)
        log_notices(alone)
    dataset = _read(choices.files(prompt), choices.settings(), connected, tell_reading(node_id, "reading"))
    dataset = replace(dataset, notices=(*dataset.notices, *alone))
    unused = tuple(name for name, values in (("images_mask", masks), ("texts", captions)) if values and not images)
    if unused:
        dataset = replace(dataset, notices=(*dataset.notices, Notice("Not used", "no pictures are connected", unused)))
    if dataset.class_count:
        _ = dataset.class_caption  # an error now, not after hours of drawing
    return dataset


def sheet_of(dataset: Dataset, node_id: str | None) -> torch.Tensor:
    """The contact sheet, as ``IMAGE`` ``(1, height, width, 3)``; the node itself gets a sentence about the data set."""
    sheet = contact_sheet(dataset, progress=tell_reading(node_id, "drawing"))
    notices = [notice.text(MOST_NAMES_ON_THE_NODE) for notice in dataset.notices]
    tell(summary(len(dataset.pictures), len(dataset.class_pictures), notices, len(dataset.groups)), node_id)
    return as_image(sheet)


def _prompt_and_texts(prompts: list[str], texts: list[str], *, has_folder: bool) -> tuple[str, list[str]]:
    """The one prompt and the texts of the connected pictures; a list of prompts is such texts.

    Raises:
        ConfigError: Several prompts are connected, and there are texts too, or a folder that needs one prompt.
    """
    if len(set(prompts)) > 1 and not texts and not has_folder:
        return "", prompts
    return one(prompts, "prompt", NODE), texts


def _read(files: PictureFiles, settings: DataConfig, connected: tuple[Picture, ...], progress: Progress) -> Dataset:
    """The data set from a folder, from the graph, or from both.

    Raises:
        DataError: There are no pictures, or some cannot be used.
    """
    if files.folder:
        dataset = read_pictures(files, settings, progress)
        # What a graph has made cannot be read again from anywhere.
        return replace(dataset, pictures=dataset.pictures + connected, source=None) if connected else dataset
    if not connected:
        raise DataError(
            "There are no pictures.",
            where=NODE,
            found="no folder and nothing connected",
            expected="at least one picture",
            remedy="Name a folder, or connect pictures.",
        )
    dataset = Dataset(
        connected, settings.resolution, files.trigger, files.class_prompt, (), files.class_count, settings
    )
    return with_class_folder(dataset, files.class_folder, progress)
