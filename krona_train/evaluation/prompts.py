"""The prompts of the DreamBooth protocol (Ruiz et al. 2022, supplement): 25 for things, 25 for living subjects."""

from __future__ import annotations

from typing import Literal

Kind = Literal["object", "live"]
_PLACES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_CHANGES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")
PROMPTS: dict[Kind, tuple[str, ...]] = {
    "object": (
        *_PLACES,
        "a {} with a wheat field in the background",
        "a {} with a tree and autumn leaves in the background",
        "a {} with the Eiffel Tower in the background",
        "a {} floating on top of water",
        "a {} floating in an ocean of milk",
        "a {} on top of green grass with sunflowers around it",
        "a {} on top of a mirror",
        "a {} on top of the sidewalk in a crowded street",
        "a {} on top of a dirt road",
        "a {} on top of a white rug",
        *_CHANGES,
    ),
    "live": (
        *_PLACES,
        "a {} wearing a red hat",
        "a {} wearing a santa hat",
        "a {} wearing a rainbow scarf",
        "a {} wearing a black top hat and a monocle",
        "a {} in a chef outfit",
        "a {} in a firefighter outfit",
        "a {} in a police outfit",
        "a {} wearing pink glasses",
        "a {} wearing a yellow shirt",
        "a {} in a purple wizard outfit",
        *_CHANGES,
    ),
}


def dreambooth_prompts(kind: Kind, subject: str) -> tuple[str, ...]:
    """All prompts of a kind of subject.

    Args:
        subject: Such as ``sks dog``.
    """
    return tuple(prompt.format(subject) for prompt in PROMPTS[kind])
