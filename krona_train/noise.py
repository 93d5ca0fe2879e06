"""Noise and noise levels for the samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .backbone.protocol import Backbone
from .randomness import generator


@dataclass(frozen=True)
class Draw:
    """What is random about a batch."""

    sigma: Tensor
    """``(B,)`` noise levels in the model's own parameter."""
    noise: Tensor
    """``(B, C, *space)``, unit variance."""


def draw(backbone: Backbone, x0: Tensor, seed: int, numbers: Sequence[int]) -> Draw:
    """Noise level and noise for each sample, from the seed and the sample's number alone.

    Args:
        x0: ``(B, C, *space)`` clean latents.
        numbers: ``B`` sample numbers, counted from the start of the training.
    """
    levels, noises = [], []
    for number in numbers:
        rng = generator(seed, "noise", number)
        levels.append(torch.rand((), generator=rng))
        noises.append(torch.randn(x0.shape[1:], generator=rng))
    sigma = backbone.noise_levels(torch.stack(levels).to(x0.device))
    return Draw(sigma, torch.stack(noises).to(x0))
