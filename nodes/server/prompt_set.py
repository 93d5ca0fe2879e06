"""What the node KronA Prompts does: lines, a file, captions or the built-in list become a data set without pictures."""

from __future__ import annotations

from dataclasses import replace

from krona_ops.errors import ConfigError, DataError
from krona_ops.shown import shown
from krona_train.config import DataConfig
from krona_train.data.choices import PictureFiles
from krona_train.data.pictures import Dataset
from krona_train.data.prompts import lines_of, read_prompts, usable_prompts
from krona_train.data.source import of_prompts, read_pictures

from . import paths
from .public import without_folders

NODE = "KronA Prompts"
"""The node's name, for errors."""
MOST_SHOWN = 5
"""Prompts in the report."""


def mistake(file: str) -> str:
    """What is wrong with a file that is typed in, in words; empty if prompts can be read from it."""
    try:
        read_prompts(paths.prompt_file(file), file)
    except DataError as error:
        return without_folders(str(error))
    return ""


def fingerprint(file: str) -> tuple[str, int, int] | None:
    """Changes when the file does; ``None`` where none is named, or it is not there."""
    place = paths.prompt_file(file) if file.strip() else None
    if place is None or not place.is_file():
        return None
    stat = place.stat()
    return str(place), stat.st_mtime_ns, stat.st_size


def read(typed: str, file: str, dataset: Dataset | None, how: PictureFiles) -> Dataset:
    """The data set of the node's inputs.

    Args:
        typed: Lines of prompts.
        dataset: The captions of this one are the prompts.
        how: How many are taken, and how large they are drawn.

    Raises:
        ConfigError: There are prompts from two places.
        DataError: There are none, or some cannot be used, or the file is one that a graph may not name here.
    """
    names = {"prompts": bool(typed.strip()), "file": bool(file.strip()), "dataset": dataset is not None}
    given = [name for name, is_there in names.items() if is_there]
    if len(given) > 1:
        raise ConfigError(
            f"The prompts come from {' and '.join(given)}, and can come from one place.",
            where=NODE,
            found=", ".join(given),
            expected="one of them, or none for the built-in prompts",
            remedy="Empty the others.",
        )
    if dataset is not None:
        return _captions_of(dataset, how)
    if typed.strip():
        prompts = lines_of(typed, "prompts")
        return of_prompts(prompts, replace(how, prompts=prompts), DataConfig(), "prompts")
    if file.strip():
        return read_pictures(replace(how, prompts_file=str(paths.prompt_file(file))), DataConfig())
    return read_pictures(replace(how, prompts="built-in"), DataConfig())


def _captions_of(dataset: Dataset, how: PictureFiles) -> Dataset:
    """The captions of a data set, or its prompts, with what its settings say of captions."""
    given = dataset.settings
    settings = DataConfig(
        resolution=given.resolution,
        caption_dropout=given.caption_dropout,
        shuffles=given.shuffles,
        keep_tags=given.keep_tags,
        cache=given.cache,
    )
    how = replace(how, width=how.width or dataset.width, height=how.height or dataset.height)
    prompts = usable_prompts(dataset.captions, "dataset")
    return of_prompts(prompts, replace(how, prompts=prompts), settings, "dataset", dataset.notices)


def report_of(dataset: Dataset) -> str:
    """How many prompts there are, and the first of them."""
    count = len(dataset.prompts)
    first = [shown(prompt, 160) for prompt in dataset.prompts[:MOST_SHOWN]]
    more = ["…"] if count > MOST_SHOWN else []
    return without_folders("\n".join([f"{count:,} prompt{'s' if count != 1 else ''}.", *first, *more]))
