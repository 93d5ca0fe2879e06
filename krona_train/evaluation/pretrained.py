"""What the judges use of transformers, which has no types of its own for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

T_co = TypeVar("T_co", covariant=True)


class Loads(Protocol[T_co]):
    """A class that is loaded from a folder."""

    __name__: str

    def from_pretrained(self, folder: str, *, local_files_only: bool, **options: object) -> T_co:
        """An instance from what ``save_pretrained`` wrote."""


class Pooled(Protocol):
    """Projected features as transformers 5 returns them."""

    pooler_output: Tensor


class Clip(Protocol):
    """``CLIPModel``."""

    def get_image_features(self, *, pixel_values: Tensor) -> Tensor | Pooled:
        """``(B, 512)`` for pictures."""

    def get_text_features(self, **tokens: Tensor) -> Tensor | Pooled:
        """``(B, 512)`` for texts."""


class Hidden(Protocol):
    """The output of a vision transformer."""

    last_hidden_state: Tensor
    """``(B, tokens, width)``, the class token first."""


class Vit(Protocol):
    """``ViTModel``."""

    def __call__(self, pixels: Tensor, /) -> Hidden:
        """The hidden states for pictures."""


class Pixels(Protocol):
    """The output of an image processor."""

    pixel_values: Tensor
    """``(B, 3, height, width)``, normalised."""


class ImageProcessor(Protocol):
    """``CLIPImageProcessor`` or ``ViTImageProcessor``: scales, cuts and normalises as its model's settings say."""

    def __call__(self, *, images: Sequence[np.ndarray], return_tensors: str) -> Pixels:
        """Pictures ``(height, width, 3)`` of bytes, ready for the model."""


class Tokenizer(Protocol):
    """``CLIPTokenizer``."""

    def __call__(
        self, texts: Sequence[str], /, *, padding: bool, truncation: bool, return_tensors: str
    ) -> Mapping[str, Tensor]:
        """Tokens and attention mask, ``(B, length)``."""
