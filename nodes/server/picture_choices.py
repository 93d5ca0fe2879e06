"""The inputs of the node KronA Dataset that have one value; without what reads pictures, which starts slowly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from krona_ops.errors import ConfigError
from krona_ops.shown import shown
from krona_train.config import DataConfig
from krona_train.data.choices import Captions, PictureFiles

from . import paths

NODE = "KronA Dataset"
"""The node's name, for errors."""


@dataclass(frozen=True)
class Choices:
    """What is typed in or chosen on the node; its defaults are the node's."""

    folder: str
    captions: Captions
    resolution: int
    masks: bool = DataConfig.masks
    trigger: str = PictureFiles.trigger
    class_prompt: str = PictureFiles.class_prompt
    class_folder: str = PictureFiles.class_folder
    class_pictures: int = PictureFiles.class_count
    repeats: int = PictureFiles.repeats
    buckets: bool = DataConfig.buckets
    crops: int = DataConfig.crops
    flip: bool = DataConfig.flip
    caption_dropout: float = DataConfig.caption_dropout
    shuffles: int = DataConfig.shuffles
    keep_tags: int = DataConfig.keep_tags
    groups: bool = PictureFiles.groups
    resolutions: str = ""
    """Sizes with commas between them."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Choices:
        """From what the host hands over, by the names of the inputs."""
        return cls(**values)

    def settings(self) -> DataConfig:
        """How the pictures are cut and captioned.

        Raises:
            ConfigError: A number is out of its bounds.
        """
        return DataConfig(
            resolution=self.resolution,
            resolutions=sizes_in(self.resolutions),
            buckets=self.buckets,
            crops=self.crops,
            flip=self.flip,
            masks=self.masks,
            caption_dropout=self.caption_dropout,
            shuffles=self.shuffles,
            keep_tags=self.keep_tags,
        )

    def files(self, prompt: str) -> PictureFiles:
        """Where the pictures are, and what they show.

        Args:
            prompt: What all of them show that have no caption of their own.

        Raises:
            ConfigError: A number is out of its bounds.
            DataError: A folder is one that a graph may not name here.
        """
        return PictureFiles(
            folder=_path(self.folder),
            prompt=prompt,
            captions=self.captions,
            trigger=self.trigger,
            class_prompt=self.class_prompt,
            class_folder=_path(self.class_folder),
            class_count=self.class_pictures,
            repeats=self.repeats,
            groups=self.groups,
        )


def sizes_in(text: str) -> tuple[int, ...]:
    """The sizes of a text, in which commas, semicolons or spaces stand between them.

    Raises:
        ConfigError: Something in it is no whole number.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 9)), None)
    if wrong is not None:
        raise ConfigError(
            f"{shown(wrong)} is no size in pixels.",
            where="resolutions",
            found=wrong,
            expected="whole numbers with commas between them",
            remedy="Write for example 128, 256, 384, 768, 1024.",
        )
    return tuple(map(int, words))


def _path(folder: str) -> str:
    return str(paths.picture_folder(folder)) if folder.strip() else ""
