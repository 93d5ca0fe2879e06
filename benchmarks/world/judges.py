"""How the judges of this world are trained: what they answer, and their losses. The networks are in
`krona_train.evaluation.small_world`."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from krona_train.evaluation.small_world import Attributes, ImageText, SubjectEncoder
from krona_train.evaluation.small_world import spelled as spelled_with

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
TEMPERATURE = 0.07
"""Of the softmax over cosines (Chen et al. 2020, "SimCLR"; Radford et al. 2021 start there too)."""


def attributes_loss(judge: Attributes, x: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Cross entropy, summed over attributes; ``truth[name]`` is ``(B,)``."""
    return sum((F.cross_entropy(scores, truth[name]) for name, scores in judge(x).items()), x.new_zeros(()))


def subject_loss(judge: SubjectEncoder, one: Tensor, other: Tensor) -> Tensor:
    """Each picture must find the other one of the same character among all of the batch."""
    return matching(judge(one), judge(other))


def image_text_loss(judge: ImageText, x: Tensor, words: Tensor) -> Tensor:
    """Each picture must find its caption, and each caption its picture."""
    return matching(judge.pictures(x), judge.captions(words))


def matching(one: Tensor, other: Tensor) -> Tensor:
    """InfoNCE in both directions of two lists of unit vectors ``(B, size)`` (van den Oord et al. 2018)."""
    scores, truth = one @ other.mT / TEMPERATURE, torch.arange(len(one), device=one.device)
    return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.mT, truth)) / 2


def spelled(captions: list[str]) -> Tensor:
    """Captions as numbers of this world's words, see `krona_train.evaluation.small_world.spelled`."""
    return spelled_with(captions, vocabulary())
