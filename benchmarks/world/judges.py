"""Three judges of this world, trained on rendered pictures of characters that nobody else is trained on.

- `Attributes` names what a picture shows: kind, colour, pose, accessory, background, light.
- `SubjectEncoder` puts pictures of one character close together, whatever it does and wherever it is (this world's DINO).
- `ImageText` puts a picture and its caption close together (this world's CLIP).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grammar import vocabulary
from .vocabulary import Accessory, Background, Kind, Light, Paint, Pose

HEADS: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "paint": get_args(Paint),
    "pose": get_args(Pose),
    "accessory": get_args(Accessory),
    "background": get_args(Background),
    "light": get_args(Light),
}
Judge = Literal["attributes", "subject", "image-text"]
TEMPERATURE = 0.07
"""Of the softmax over cosines (Chen et al. 2020, "SimCLR"; Radford et al. 2021 start there too)."""
LONGEST = 24
"""Words of a caption."""


class Trunk(nn.Sequential):
    """``(B, 3, 64, 64)`` to ``(B, 4 * width)``."""

    def __init__(self, width: int = 48) -> None:
        def block(into: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]

        layers = [*block(3, width, 2), *block(width, width, 1)]
        for level in (1, 2, 4):
            layers += [*block(width * max(1, level // 2), width * level, 2), *block(width * level, width * level, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 4 * width), nn.SiLU())


class Attributes(nn.Module):
    """Scores for every value of every attribute."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.trunk = Trunk(width)
        self.heads = nn.ModuleDict({name: nn.Linear(4 * width, len(values)) for name, values in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``(B, 3, 64, 64)`` to ``(B, values)`` for each attribute."""
        seen = self.trunk(x)
        return {name: head(seen) for name, head in self.heads.items()}

    def loss(self, x: Tensor, truth: dict[str, Tensor]) -> Tensor:
        """Cross entropy, summed over attributes; ``truth[name]`` is ``(B,)``."""
        return sum((F.cross_entropy(scores, truth[name]) for name, scores in self(x).items()), x.new_zeros(()))


class SubjectEncoder(nn.Module):
    """Unit vectors of characters."""

    def __init__(self, width: int = 48, size: int = 64) -> None:
        super().__init__()
        self.trunk, self.out = Trunk(width), nn.Linear(4 * width, size)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` to ``(B, size)``, of length 1."""
        return F.normalize(self.out(self.trunk(x)), dim=1)

    def loss(self, one: Tensor, other: Tensor) -> Tensor:
        """Each picture must find the other one of the same character among all of the batch."""
        return matching(self(one), self(other))


class ImageText(nn.Module):
    """Unit vectors of pictures and of captions in one space."""

    def __init__(self, width: int = 48, size: int = 64) -> None:
        super().__init__()
        self.trunk, self.out = Trunk(width), nn.Linear(4 * width, size)
        self.words = nn.Embedding(len(vocabulary()) + 1, 4 * width, padding_idx=0)
        self.reader = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, size))

    def pictures(self, x: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` to ``(B, size)``, of length 1."""
        return F.normalize(self.out(self.trunk(x)), dim=1)

    def captions(self, words: Tensor) -> Tensor:
        """``(B, LONGEST)`` from `spelled` to ``(B, size)``, of length 1. The grammar is fixed, so which words there are says it all."""
        return F.normalize(self.reader(self.words(words).sum(1)), dim=1)

    def loss(self, x: Tensor, words: Tensor) -> Tensor:
        """Each picture must find its caption, and each caption its picture."""
        return matching(self.pictures(x), self.captions(words))


def matching(one: Tensor, other: Tensor) -> Tensor:
    """InfoNCE in both directions of two lists of unit vectors ``(B, size)`` (van den Oord et al. 2018)."""
    scores, truth = one @ other.mT / TEMPERATURE, torch.arange(len(one))
    return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.mT, truth)) / 2


def spelled(captions: list[str]) -> Tensor:
    """Captions as numbers of words ``(B, LONGEST)``, 0 behind the end; unknown words (a subject's own) are left out."""
    numbers = {word: n + 1 for n, word in enumerate(vocabulary())}
    lines = [[numbers[word] for word in caption.split() if word in numbers][:LONGEST] for caption in captions]
    return torch.tensor([line + [0] * (LONGEST - len(line)) for line in lines])
