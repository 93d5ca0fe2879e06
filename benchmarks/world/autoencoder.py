"""How the world's autoencoder is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

KL = 1e-4
"""Weight of the distance to unit noise, per latent number."""
EDGES = 1.0
"""Weight of the error of differences between neighbours: patterns are all edges."""


def pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """``(B, H, W, 3)`` bytes as ``(B, 3, H, W)`` in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss(vae: Any, x: Tensor, noise: torch.Generator) -> Tensor:
    """Absolute error of pixels and of their differences, and the pull of the latents towards unit noise."""
    mean, log_variance = vae.moments(x)
    log_variance = log_variance.clamp(-20, 10)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=noise).to(mean)
    y = vae.decode(z)
    edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return (y - x).abs().mean() + EDGES * edges + KL * kl


@torch.no_grad()
def encode(
    vae: Any, pictures: NDArray[np.uint8], batch: int = 64, say: Callable[[str], None] = lambda line: None
) -> Tensor:
    """Latent means ``(N, 32, H/8, W/8)``."""
    latents = []
    for start in range(0, len(pictures), batch):
        latents.append(vae.encode(pixels(pictures[start : start + batch])))
        if start // batch % 50 == 49:
            say(f"{start + batch} of {len(pictures)} pictures encoded")
    return torch.cat(latents).contiguous()


@torch.no_grad()
def standardise(vae: Any, latents: Tensor) -> None:
    """Change the last layer of the encoder and the first of the decoder so that latents have zero mean and unit
    variance, channel by channel.

    Args:
        latents: ``(N, 32, h, w)`` as the autoencoder makes them now.
    """
    out, into = vae.encoder[-1], vae.decoder[0]
    channels = into.in_channels
    latents = F.pixel_shuffle(latents, math.isqrt(latents.shape[1] // channels))  # several of its places are one latent
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    out.weight[:channels] /= std[:, None, None, None]
    out.bias[:channels] = (out.bias[:channels] - mean) / std
    out.bias[channels:] -= 2 * std.log()  # log variances
    into.bias += into.weight[:, :, 0, 0] @ mean
    into.weight *= std[None, :, None, None]


@torch.no_grad()
def error(vae: Any, pictures: NDArray[np.uint8]) -> float:
    """Root mean square error of a picture that goes through, in [0, 1] pixels."""
    x = pixels(pictures)
    y = vae.decode(vae.encode(x)).clamp(-1, 1)
    return float(F.mse_loss(y, x).sqrt() / 2)
