"""Pictures drawn while a training runs: what to draw, and how large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from PIL import Image

from krona_ops import Adapter

from ..settings.groups import PreviewConfig


class Previewer(Protocol):
    """Draws with the model as it stands; equal weights give equal pictures, bit for bit, and nothing random moves."""

    def __call__(self, adapter: Callable[[], Adapter], /) -> tuple[Image.Image, ...]:
        """One RGB picture per prompt.

        Args:
            adapter: Makes the adapter as it stands, for who does not draw with the model that it is attached to.
        """


def preview_prompts(config: PreviewConfig, captions: Sequence[str]) -> tuple[str, ...]:
    """What is drawn: the prompts of the settings, or the first caption of the pictures that are trained on."""
    return config.prompts or tuple(captions[:1])


def preview_size(config: PreviewConfig, trained: tuple[int, int]) -> tuple[int, int]:
    """Width and height in pixels.

    Args:
        trained: Those of the training, which the settings may leave as they are.
    """
    return (config.width or trained[0], config.height or trained[1])
