"""What the model draws before a training, where an objective learns from that instead of from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..batches.examples import Example, Item
from ..randomness import generator


@dataclass(frozen=True)
class Drawing:
    """One drawing that is to be made."""

    number: int
    prompt: Example
    guidance: float
    noise: Tensor
    """``(C, *space)``, of unit variance."""


@dataclass(frozen=True)
class Rollouts:
    """Drawings that a training needs: of the data set's prompts in turn, each from its own noise."""

    count: int
    """So many drawings."""
    steps: int
    """Of the sampler, for each of them."""
    lowest: float
    """Classifier-free guidance is drawn for each of them, uniformly from here."""
    highest: float
    """To here; as ``lowest`` for one guidance."""
    negative: str = ""
    """What guidance leads away from."""
    keep: Literal["states", "ends"] = "states"
    """``states``: all that the model saw on its way, with the guided prediction there. ``ends``: the noise that it began
    with and the picture that came out."""
    guided: bool = True
    """Whether the drawing follows the guided prediction; otherwise that is written down and the drawing goes on without
    guidance."""
    sampler: str = "euler"
    """The host's name of the sampler."""
    scheduler: str = "normal"
    """The host's name of the noise schedule."""

    def drawing(self, number: int, prompts: Sequence[Item], seed: int) -> Drawing:
        """Drawing ``number``, counted from 0: of prompt ``number`` modulo their number, from noise and with guidance of
        its own."""
        prompt = prompts[number % len(prompts)].forms[0]
        rng = generator(seed, "rollouts", number)
        guidance = self.lowest + (self.highest - self.lowest) * torch.rand((), generator=rng).item()
        return Drawing(number, prompt, guidance, torch.randn(prompt.latent_shape, generator=rng))
