"""Noise and noise levels for the samples of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbone.protocol import Backbone
from ..batches.transfer import send
from ..randomness import Stream, generator
from .denoising_config import DenoisingConfig
from .protocol import Source

NOISE: Mapping[Source, Stream] = {"data": "noise", "class data": "class noise"}
"""The streams of random numbers that noise comes from."""


@dataclass(frozen=True)
class Draw:
    """What is random about a batch."""

    sigma: Tensor
    """``(B,)`` noise levels in the model's own parameter."""
    noise: Tensor
    """``(B, C, *space)``, unit variance (more, with a noise offset)."""


def draw(
    backbone: Backbone,
    x0: Tensor,
    seed: int,
    numbers: Sequence[int],
    config: DenoisingConfig | None = None,
    stream: Stream = "noise",
) -> Draw:
    """Noise level and noise for each sample, from the seed and the sample's number alone.

    Args:
        x0: ``(B, C, *space)`` clean latents.
        numbers: ``B`` sample numbers, counted from the start of the training.
        config: Which levels are drawn, and the noise's offset.
    """
    config = config or DenoisingConfig()
    times, noises = [], []
    for number in numbers:
        rng = generator(seed, stream, number)
        times.append(warp(torch.rand((), generator=rng), config))
        noises.append(torch.randn(x0.shape[1:], generator=rng))
        if config.noise_offset:
            # One number per channel (Guttenberg 2023, "Diffusion with offset noise").
            shift = torch.randn(x0.shape[1], *[1] * (x0.ndim - 2), generator=rng)
            noises[-1] = noises[-1] + config.noise_offset * shift
    return Draw(backbone.noise_levels(torch.stack(times)), send(torch.stack(noises).to(x0.dtype), x0.device))


def warp(u: Tensor, config: DenoisingConfig) -> Tensor:
    """A uniform number in [0, 1) to a time of the wanted density, 0 clean and 1 noise.

    Densities: logit-normal and mode are sections 3.1 of Esser et al. 2024 (Stable Diffusion 3), the latter eq. 20;
    shifted is their eq. 23. The results stay in [0, 1).
    """
    if config.levels == "uniform":
        return u
    if config.levels == "shifted":
        t = config.level_shift * u / (1 + (config.level_shift - 1) * u)
    elif config.levels == "logit_normal":
        u = u.double()  # the quantile function needs the distance from 1, which float32 has not got
        t = torch.sigmoid(config.level_mean + config.level_std * torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))).float()
    else:
        t = 1 - u - config.level_scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    return t.clamp(0, 1 - 2**-24)
