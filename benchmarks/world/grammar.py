"""What can be said about a picture of this world, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from .vocabulary import Accessory, Background, Kind, Light, Paint, Pose

PLACES: dict[Background, str] = {
    "beach": "on the beach",
    "forest": "in the forest",
    "city": "in the city",
    "snow": "in the snow",
    "desert": "in the desert",
    "room": "in a room",
}
LIGHTS: dict[Light, str] = {"day": "by day", "sunset": "at sunset", "night": "at night"}
ACCESSORIES: dict[Accessory, str] = {
    "none": "",
    "hat": "with a hat",
    "scarf": "with a scarf",
    "umbrella": "with an umbrella",
    "balloon": "with a balloon",
}


@dataclass(frozen=True)
class Scene:
    """Everything about a picture but who is in it."""

    pose: Pose
    accessory: Accessory
    background: Background
    light: Light


def caption(scene: Scene, who: str) -> str:
    """``a photo of a red robot waving with a hat on the beach at night``.

    Args:
        who: Such as ``a red robot``, or ``sks robot`` for a subject.
    """
    parts = ("a photo of", who, scene.pose, ACCESSORIES[scene.accessory], PLACES[scene.background], LIGHTS[scene.light])
    return " ".join(part for part in parts if part)


def who(kind: Kind, paint: Paint | None) -> str:
    """A member of a class, by its colour if that is told."""
    words = kind if paint is None else f"{paint} {kind}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can have, in alphabetical order; subjects' own words are not among them."""
    phrases = [*PLACES.values(), *LIGHTS.values(), *ACCESSORIES.values(), "a an photo of"]
    words = {word for text in phrases for word in text.split()}
    return tuple(sorted(words.union(get_args(Kind), get_args(Paint), get_args(Pose))))


def draw_scene(rng: np.random.Generator) -> Scene:
    """Any scene, all equally likely."""

    def one(literal: object) -> Any:
        values = get_args(literal)
        return values[rng.integers(len(values))]

    return Scene(one(Pose), one(Accessory), one(Background), one(Light))
