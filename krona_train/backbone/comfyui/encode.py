"""Pictures and captions through the host's VAE and text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krona_ops.errors import DataError


@dataclass(frozen=True)
class PictureSize:
    """How a training picture was cut, in pixels: what SDXL-type models are told about each picture."""

    width: int
    height: int
    crop_left: int
    crop_top: int
    target_width: int
    target_height: int

    def entries(self) -> dict[str, int]:
        """As the host's conditioning spells them (SDXL, Podell et al. 2023, section 2.2)."""
        return {
            "width": self.width, "height": self.height, "crop_w": self.crop_left, "crop_h": self.crop_top,
            "target_width": self.target_width, "target_height": self.target_height,
        }  # fmt: skip


@dataclass(frozen=True)
class TextCondition:
    """An encoded caption, as the host's ``CONDITIONING`` holds it, and the size of the picture that it belongs to."""

    embedding: Tensor
    extras: Mapping[str, Any]
    size: PictureSize


def encode_captions(clip: Any, captions: Sequence[str]) -> dict[str, tuple[Tensor, Mapping[str, Any]]]:
    """Encode each different caption once.

    Args:
        clip: The host's CLIP.

    Returns:
        ``{caption: (embedding (1, tokens, width), extras)}``.
    """
    encoded = {}
    for caption in dict.fromkeys(captions):
        entries = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        encoded[caption] = (entries[0][0], entries[0][1])
    return encoded


def encode_picture(vae: Any, pixels: Tensor) -> Tensor:
    """Encode one picture ``(height, width, 3)`` in [0, 1] with the host's VAE: ``(C, *space)``, not yet scaled for the model.

    Raises:
        DataError: The VAE gives NaN, which half-precision SDXL VAEs do.
    """
    latent = vae.encode(pixels[None])[0].float()
    if not torch.isfinite(latent).all():
        raise DataError(
            "The VAE turns a picture into NaN.",
            found="NaN latents",
            expected="finite latents",
            remedy="Start ComfyUI with --fp32-vae, or load a VAE that works in half precision.",
        )
    return latent
