"""A model's encoders, and what they have encoded: in memory, in the cache, or made now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from krona_ops.errors import DataError

from .buckets import PictureSize, View
from .cache import Cache, can_hold, entry_key
from .pixels import Content

EncodedText = tuple[Tensor, Mapping[str, object]]
"""The embedding ``(1, tokens, width)``, and the text encoder's other outputs by name, such as ``pooled_output``."""
_EMBEDDING = "embedding"


class Encoder(Protocol):
    """A model's VAE and text encoder."""

    def picture_identity(self) -> str | None:
        """A text that differs for encoders that encode differently;
        ``None`` where there is none, so nothing is kept."""

    def text_identity(self, caption: str) -> str | None:
        """The same for the text encoder and one caption."""

    def encode_picture(self, pixels: Tensor) -> Tensor:
        """``(height, width, 3)`` in [0, 1] to ``(C, *space)``.

        Raises:
            DataError: The result is not finite.
        """

    def encode_captions(self, captions: Sequence[str]) -> Mapping[str, EncodedText]:
        """The captions, each with its encoding."""

    def condition(self, text: EncodedText, size: PictureSize, caption: str) -> object:
        """The model's condition for one picture; only the backbone looks inside. ``text`` is the caption, encoded."""


class Store:
    """Encoded captions and cuts: from memory, else from the cache, else made and kept in both."""

    def __init__(self, encoder: Encoder, cache: Cache | None) -> None:
        self.encoder, self.cache = encoder, cache
        self._latents: dict[str, Tensor] = {}
        self._texts: dict[str, EncodedText] = {}
        self._made = 0

    def text(self, caption: str) -> EncodedText:
        """The encoding of a caption."""
        if caption not in self._texts:
            identity = self.encoder.text_identity(caption)
            key = entry_key("text", identity, caption)
            self._texts[caption] = self._kept_text(key, identity) or self._make_text(caption, key, identity)
        return self._texts[caption]

    def _kept_text(self, key: str, identity: str | None) -> EncodedText | None:
        entry = self.cache.get(key) if self.cache is not None and identity is not None else None
        if entry is None or _EMBEDDING not in entry[0]:
            return None
        tensors, values = entry
        return tensors.pop(_EMBEDDING), {**tensors, **values}

    def _make_text(self, caption: str, key: str, identity: str | None) -> EncodedText:
        embedding, extras = self.encoder.encode_captions([caption])[caption]
        if self.cache is None or identity is None or not can_hold(extras) or _EMBEDDING in extras:
            return embedding, extras
        tensors = {name: value for name, value in extras.items() if isinstance(value, Tensor)}
        values = {name: value for name, value in extras.items() if name not in tensors}
        self.cache.put(key, {**tensors, _EMBEDDING: embedding}, values)
        self._made += 1
        return self._kept_text(key, identity) or (embedding, extras)  # mapped, where it could be written

    def latent(self, content: Content, view: View) -> Tensor:
        """The encoding of a cut of a picture, ``(C, *space)``."""
        identity = self.encoder.picture_identity()
        key = entry_key("latent", identity, content.digest, view)
        if key not in self._latents:
            kept = self._kept_latent(key, identity)
            self._latents[key] = self._make_latent(content, view, key, identity) if kept is None else kept
        return self._latents[key]

    def _kept_latent(self, key: str, identity: str | None) -> Tensor | None:
        entry = self.cache.get(key) if self.cache is not None and identity is not None else None
        return None if entry is None else entry[0].get("latent")

    def _make_latent(self, content: Content, view: View, key: str, identity: str | None) -> Tensor:
        try:
            latent = self.encoder.encode_picture(content.cut(view))
        except DataError as error:
            name = content.picture.name
            raise DataError(str(error), where=name, found=error.found, expected=error.expected) from error
        if self.cache is None or identity is None:
            return latent
        self.cache.put(key, {"latent": latent})
        self._made += 1
        kept = self._kept_latent(key, identity)
        return latent if kept is None else kept

    def close(self) -> None:
        """Bring the cache below its limit, where entries were added."""
        if self.cache is not None and self._made:
            self.cache.prune()
