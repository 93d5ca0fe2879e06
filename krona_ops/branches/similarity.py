"""The frame similarity prior: the frames of a clip begin as its first one, blurred in some places.

I2V-Adapter (arXiv 2312.16693) starts the later frames not from noise alone but from ``α·D(x₁) + σ·ε`` at a noise level
below the highest one, with ``D(x) = M_p ∘ x + (1 − M_p) ∘ blur(x)``. This is ``D``; the noise is the sampler's. Written
from that formula alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError


def groups_of_frames(pictures: Tensor, frames: int, sharp: float, blur: float, seed: int) -> Tensor:
    """A clip for each picture: the picture itself, bit for bit, then ``D`` of it for every later frame.

    A clip depends on nothing but its own picture: several at once are the same as one after the other.

    Args:
        pictures: Latents ``(G, C, H, W)``.
        frames: Of one clip, the first included.
        sharp: The share ``p`` of places that stay as they are; each later frame has its own places.
        blur: The deviation of the blur, in places of the latent.
        seed: Of the places.

    Returns:
        ``(G·frames, C, H, W)``, clip by clip.

    Raises:
        ShapeError: The latents are not those of pictures.
        ConfigError: There is no such number of frames, share, deviation or seed.
    """
    if pictures.ndim != 4 or 0 in pictures.shape:
        raise ShapeError(
            f"The latent has the shape {tuple(pictures.shape)}.",
            where="image",
            found=tuple(pictures.shape),
            expected="(pictures, channels, height, width)",
            remedy="Connect the latent of a picture, from VAE Encode; videos and sounds have latents of other kinds.",
        )
    if frames < 1:
        raise _refused("frames", frames, "a whole number from 1")
    places = (frames - 1, 1, *pictures.shape[-2:])
    masks = sharp_places(places, sharp, seed).to(pictures.device)
    soft = blurred(pictures, blur)
    later = torch.where(masks, pictures[:, None], soft[:, None])  # (G, frames - 1, C, H, W)
    return torch.cat((pictures[:, None], later), 1).flatten(0, 1)


def sharp_places(shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    """The mask ``M_p``: true with probability ``share`` in each place, the same on every machine.

    The places of a smaller share are among those of a larger one. No other random numbers are moved on.

    Raises:
        ConfigError: The share is none, or the seed is negative.
    """
    if not 0 <= share <= 1:
        raise _refused("p", share, "a share from 0 to 1")
    if seed < 0:
        raise _refused("seed", seed, "a whole number from 0")
    # The bits themselves: numpy keeps their sequence for ever, and that of no function that makes numbers of them.
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(math.prod(shape))
    uniform = (np.atleast_1d(bits) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    return torch.from_numpy(uniform < share).reshape(shape)


def blurred(pictures: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur whose kernel ends where the picture ends, and has the sum 1 everywhere.

    Each side is one product with a matrix of its own size: exact for every deviation, whatever the size. 0 changes no
    bit, and an ever wider one gives the picture's mean.

    Args:
        pictures: ``(..., H, W)``.
        deviation: Of the Gaussian, in places.

    Raises:
        ConfigError: The deviation is negative or no number.
    """
    if not 0 <= deviation < math.inf:
        raise _refused("blur", deviation, "a number from 0")
    if deviation == 0:
        return pictures
    down, across = (_weights(length, deviation) for length in pictures.shape[-2:])
    soft = down @ pictures.cpu().double() @ across.mT
    return soft.to(pictures.device, pictures.dtype)


def _weights(length: int, deviation: float) -> Tensor:
    """``(length, length)``: how much every place gives to each one, the sum of a row being 1."""
    places = torch.arange(length, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _refused(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        f"It is {value}, not {expected}.",
        where=name,
        found=value,
        expected=expected,
        remedy=f"Set {name} to {expected}.",
    )
