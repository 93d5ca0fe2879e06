"""Pictures and captions through the host's VAE and text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from krona_host.types import Clip, Vae
from krona_ops.errors import DataError

from ..data.buckets import PictureSize
from ..data.store import EncodedText
from .identity import clip_identity, vae_identity

__all__ = [
    "ComfyEncoder",
    "PictureSize",
    "TextCondition",
    "clip_identity",
    "encode_captions",
    "encode_picture",
    "vae_identity",
]


@dataclass(frozen=True)
class TextCondition:
    """An encoded caption, as the host's ``CONDITIONING`` holds it, and the size of the picture that it belongs to."""

    embedding: Tensor
    extras: Mapping[str, object]
    size: PictureSize
    caption: str | None = None
    """What was encoded, for a training that encodes it again because the text encoder learns too."""


class ComfyEncoder:
    """The host's CLIP and VAE, as `krona_train.data.store` wants them."""

    def __init__(self, clip: Clip, vae: Vae) -> None:
        self._clip, self._vae = clip, vae

    @cached_property
    def _identities(self) -> tuple[str | None, str | None]:
        """Of the VAE and of the text encoder; hashed once, because neither changes while it encodes."""
        return vae_identity(self._vae), clip_identity(self._clip)

    def picture_identity(self) -> str | None:
        """See `krona_train.data.store.Encoder`."""
        return self._identities[0]

    def text_identity(self, caption: str) -> str | None:
        """See `krona_train.data.store.Encoder`; captions with embeddings depend on files that may change."""
        return None if "embedding:" in caption else self._identities[1]

    def encode_picture(self, pixels: Tensor) -> Tensor:
        """See `encode_picture`."""
        return encode_picture(self._vae, pixels)

    def encode_captions(self, captions: Sequence[str]) -> dict[str, EncodedText]:
        """See `encode_captions`."""
        return encode_captions(self._clip, captions)

    def condition(self, text: EncodedText, size: PictureSize, caption: str) -> TextCondition:
        """A caption and the size of the picture that it belongs to."""
        return TextCondition(*text, size, caption)


def encode_captions(clip: Clip, captions: Sequence[str]) -> dict[str, EncodedText]:
    """Encode each different caption once.

    Args:
        clip: The host's CLIP.

    Returns:
        ``{caption: (embedding (1, tokens, width), extras)}``.
    """
    encoded: dict[str, EncodedText] = {}
    for caption in dict.fromkeys(captions):
        entries = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        encoded[caption] = (entries[0][0], entries[0][1])
    return encoded


def encode_picture(vae: Vae, pixels: Tensor) -> Tensor:
    """Encode one picture ``(height, width, 3)`` in [0, 1] with the host's VAE: ``(C, *space)``, not yet scaled for the
    model.

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
