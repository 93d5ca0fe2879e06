"""The pictures and captions of a training, or its prompts, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from krona_ops.errors import ConfigError, DataError

from ..batches.camera import Camera
from ..settings.groups import DataConfig
from .captions import class_caption, require_usable
from .notices import Notice

if TYPE_CHECKING:
    from .choices import PictureFiles


@dataclass(frozen=True, eq=False)
class PictureGroup:
    """What the pictures of one group have in common: each of them carries this very object."""

    name: str
    """In messages: the subfolder, or the batch."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One training picture: a file, or pixels."""

    source: Path | Tensor
    """A file, or ``(height, width, 3)`` in [0, 1]."""
    caption: str
    name: str
    """Its name in messages."""
    mask: Path | Tensor | None = None
    """Where the picture is learnt: a file whose white counts, the picture's own file for what is opaque in it, or
    ``(height, width)`` in [0, 1]. ``None`` counts everything."""
    repeats: int = 1
    """How often per epoch."""
    group: PictureGroup | None = None
    """Its group, whose pictures follow one another; ``None`` where it stands alone."""
    camera: Camera | None = None
    """Where it was taken from; ``None`` where that is not known."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What an adapter is trained on. It carries the settings that `krona_train.TrainConfig.data` gets.

    Raises:
        ConfigError: The settings would tear its groups apart; or it has prompts, and also pictures or settings that are
            for pictures.
        DataError: Its groups have cameras, and not all the same number of views.
    """

    pictures: tuple[Picture, ...]
    resolution: int = 0
    """Side in pixels of a square of the same area; 0 takes the settings' resolution, and 0 there the model's own."""
    trigger: str = ""
    """The rare word that stands for the subject in the captions."""
    class_prompt: str = ""
    """A caption of the subject's class, such as ``a photo of a dog``; empty takes the captions without the trigger."""
    class_pictures: tuple[Picture, ...] = ()
    """Other members of the subject's class, to keep what the model knows about it."""
    class_count: int = 0
    """How many class pictures are wanted; those that are missing are made by the model before the training."""
    settings: DataConfig = field(default_factory=DataConfig)
    source: PictureFiles | None = None
    """Where all of it can be read again; ``None`` where some of it came from a graph."""
    notices: tuple[Notice, ...] = ()
    """Files that are not used, and what else whoever trains should know."""
    prompts: tuple[str, ...] = ()
    """What is learnt from, where there are no pictures."""
    width: int = 0
    """In pixels, of what is drawn from prompts; 0 takes the resolution."""
    height: int = 0

    def __post_init__(self) -> None:
        _require_no_pictures(self)
        # The resolution is in two places: whichever is given, both have it.
        resolution = self.resolution or self.settings.resolution
        object.__setattr__(self, "resolution", resolution)
        object.__setattr__(self, "settings", replace(self.settings, resolution=resolution))
        _require_whole_groups(self.groups, self.settings)

    @property
    def groups(self) -> tuple[tuple[Picture, ...], ...]:
        """The pictures of each group, in their order; those that stand alone are in none."""
        runs = groupby(self.pictures, key=lambda picture: picture.group)
        return tuple(tuple(pictures) for group, pictures in runs if group is not None)

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of each picture; or the prompts."""
        return self.prompts or tuple(picture.caption for picture in self.pictures)

    @property
    def missing_class_pictures(self) -> int:
        """How many class pictures have to be made before the training."""
        return max(0, self.class_count - len(self.class_pictures))

    @property
    def class_caption(self) -> str:
        """What class pictures show: the class prompt, or the first picture's caption without the trigger.

        Raises:
            DataError: There is neither a class prompt nor a trigger, or the trigger is not in that caption.
        """
        return class_caption(self.captions[0] if self.pictures else "", self.trigger, self.class_prompt)

    def with_class_pictures(self, pictures: Sequence[Picture], notices: Sequence[Notice] = ()) -> Dataset:
        """The data set with further class pictures, from a folder or made by the model."""
        return replace(self, class_pictures=(*self.class_pictures, *pictures), notices=(*self.notices, *notices))


def _require_no_pictures(dataset: Dataset) -> None:
    """See that a data set of prompts has no pictures, and no settings that only pictures obey.

    Raises:
        ConfigError: It has.
    """
    if not dataset.prompts:
        return
    settings = dataset.settings
    chosen = {
        "pictures": bool(dataset.pictures),
        "class pictures": bool(dataset.class_pictures or dataset.class_count),
        "masks": settings.masks,
        "flip": settings.flip,
        "crops": settings.crops > 1,
        "resolutions": bool(settings.resolutions),
    }
    found = [name for name, is_there in chosen.items() if is_there]
    if found:
        raise ConfigError(
            f"The data set has prompts in the place of pictures, and also {' and '.join(found)}.",
            where=found[0],
            found=", ".join(found),
            expected="prompts alone",
            remedy="Take these out, or the prompts.",
        )


def _require_whole_groups(groups: Sequence[Sequence[Picture]], settings: DataConfig) -> None:
    """See whether groups can be cut as the settings say.

    Raises:
        ConfigError: Each picture would be cut in a way of its own, or the mirror images of views have other cameras.
        DataError: The groups with cameras differ in their number of views.
    """
    if not groups:
        return
    if settings.crops > 1:
        raise ConfigError(
            "The pictures of a group cannot be cut in several places: each would show another part.",
            where="crops",
            found=settings.crops,
            expected="1, with groups",
            remedy="Set crops to 1, or turn groups off.",
        )
    views = [(len(group), group[0].group.name) for group in groups if group[0].group and group[0].camera]
    if views and settings.flip:
        raise ConfigError(
            "Views with cameras cannot be mirrored: the mirror image of a left side is no right side.",
            where="flip",
            found="on",
            expected="off, with cameras",
            remedy="Turn flip off, or take cameras.json away.",
        )
    if views and min(views)[0] < max(views)[0]:
        numbers = f"{min(views)[1]} has {min(views)[0]}, {max(views)[1]} has {max(views)[0]}"
        raise DataError(
            f"The groups with cameras have different numbers of views: {numbers}.",
            where="cameras.json",
            found=numbers,
            expected="one number for all groups",
            remedy="Add the missing views, or take the groups out that lack some.",
        )


def from_tensor(images: Tensor, prompt: str, masks: Tensor | None = None, repeats: int = 1) -> tuple[Picture, ...]:
    """The pictures of an ``IMAGE`` batch ``(count, height, width, 3)``, all with the prompt.

    Args:
        masks: ``(count or 1, height, width)`` in [0, 1]; what is 1 counts.

    Raises:
        DataError: The prompt is empty, or the masks do not belong to the pictures.
    """
    require_prompt(prompt, "the pictures from the graph")
    if masks is not None:
        masks = masks[None] if masks.ndim == 2 else masks
        if tuple(masks.shape[1:]) != tuple(images.shape[1:3]) or len(masks) not in (1, len(images)):
            raise DataError(
                f"{len(masks)} masks of {masks.shape[2]} × {masks.shape[1]} pixels are connected for {len(images)} "
                f"pictures of {images.shape[2]} × {images.shape[1]}.",
                where="the pictures from the graph",
                found=tuple(masks.shape),
                expected=tuple(images.shape[:3]),
                remedy="Connect one mask per picture, or one for all, of the pictures' size.",
            )
        masks = masks.expand(len(images), -1, -1)
    return tuple(
        Picture(image[..., :3], prompt, f"picture {number}", None if masks is None else masks[number - 1], repeats)
        for number, image in enumerate(images, 1)
    )


def require_prompt(prompt: str, what: str) -> None:
    """See whether a prompt can be the caption of pictures.

    Args:
        what: The pictures, for the error.

    Raises:
        DataError: The prompt is empty, or cannot be a caption.
    """
    require_usable(prompt, what)
    if not prompt.strip():
        raise DataError(
            "The prompt is empty.",
            where=what,
            found="nothing",
            expected="a sentence that names the subject",
            remedy='Write something like "a photo of sks dog": '
            "a rare word for the subject and a plain one for its kind.",
        )
