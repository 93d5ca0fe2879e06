"""The subjects that personalisation is measured with, their pictures, and what they are asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .characters import SUBJECTS, Character, character
from .grammar import Scene, caption
from .pictures import Shot, picture
from .vocabulary import Accessory, Background, Kind, Light, Pose

WORD = "sks"
"""What a subject is called; no caption of the world has it."""
COUNT = 8
PICTURES = 4
"""Of each subject, to train on."""
SCENES: tuple[tuple[Pose, Accessory, Background, Light], ...] = (
    ("standing", "none", "beach", "day"),
    ("waving", "hat", "forest", "day"),
    ("jumping", "none", "city", "sunset"),
    ("sitting", "scarf", "snow", "day"),
    ("standing", "umbrella", "desert", "sunset"),
    ("waving", "balloon", "room", "day"),
    ("jumping", "hat", "beach", "night"),
    ("sitting", "none", "forest", "sunset"),
    ("standing", "balloon", "city", "night"),
    ("waving", "none", "snow", "night"),
    ("jumping", "scarf", "desert", "day"),
    ("sitting", "umbrella", "room", "night"),
)
"""What is asked for: every pose three times, every background twice, every accessory."""


@dataclass(frozen=True)
class Subject:
    """One of them, by its number from 0 on."""

    number: int

    @property
    def character(self) -> Character:
        return character(SUBJECTS + self.number)

    @property
    def kind(self) -> Kind:
        return self.character.kind

    @property
    def caption(self) -> str:
        """Of every training picture, as in DreamBooth (Ruiz et al. 2022): it says nothing of pose or place."""
        return f"a photo of {WORD} {self.kind}"

    def training_pictures(self, count: int = PICTURES) -> NDArray[np.uint8]:
        """``(count, 64, 64, 3)``, at most 4, as somebody who knows what helps would take them:
        no pose and no place twice, two of them by day."""
        rng = np.random.default_rng([20_27, self.number])
        poses, places, things = (rng.permutation(get_args(values)) for values in (Pose, Background, Accessory))
        lights = rng.permutation(("day", "day", "sunset", "night"))
        drawn = zip(poses, things, places, lights, strict=False)
        scenes = [Scene(*map(str, words)) for words in drawn]  # type: ignore[arg-type]  # numpy knows no literals
        return np.stack([self._picture(scene, n) for n, scene in enumerate(scenes[:count])])

    def real_pictures(self, count: int) -> NDArray[np.uint8]:
        """What a perfect model would draw: ``(12 * count, 64, 64, 3)`` of the scenes in `SCENES`,
        each as often as asked."""
        return np.stack([self._picture(Scene(*scene), 1_000_000 + n) for scene in SCENES for n in range(count)])

    def _picture(self, scene: Scene, seed: int) -> NDArray[np.uint8]:
        return picture(Shot(SUBJECTS + self.number, scene, "", seed))

    def prompts(self) -> tuple[str, ...]:
        """One for each of `SCENES`, with the subject's word."""
        return tuple(caption(Scene(*scene), f"{WORD} {self.kind}") for scene in SCENES)

    def class_prompts(self) -> tuple[str, ...]:
        """The same for any member of its class."""
        return tuple(caption(Scene(*scene), f"a {self.kind}") for scene in SCENES)


def subjects(count: int = COUNT) -> tuple[Subject, ...]:
    """The first ones."""
    return tuple(Subject(n) for n in range(count))
