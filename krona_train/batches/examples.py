"""Encoded pictures: one, all forms of one, and some of them on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, device

from .transfer import send


@dataclass(frozen=True)
class Example:
    """One picture with its caption, encoded."""

    latent: Tensor
    """``(C, *space)`` as the autoencoder gives it; may be mapped from a file."""
    condition: Any
    """The encoded caption and what else the model is told about this picture; only the backbone looks inside."""
    caption: str = ""
    mask: Tensor | None = None
    """``(*space)``, how much each place counts, from 0 to 1; ``None`` counts all alike."""
    class_condition: Any = None
    """As ``condition``, for the caption that names only the subject's class; for prior preservation without pictures."""


@dataclass(frozen=True)
class Item:
    """One picture of the data set, in all the forms in which it may be trained on."""

    forms: tuple[Example, ...]
    """Cuts, mirror images and orders of the caption, all of one size; each time one is drawn, all equally likely."""
    uncaptioned: tuple[Example, ...] = ()
    """The same with an empty caption, drawn instead as often as captions are dropped."""
    repeats: int = 1
    """How often per epoch."""


@dataclass(frozen=True)
class Batch:
    """Some examples on the model's device, in the model's own latent scale."""

    x0: Tensor
    """``(B, C, *space)``, clean."""
    conditions: tuple[Any, ...]
    """One for each of the ``B`` samples."""
    mask: Tensor | None = None
    """``(B, 1, *space)``, how much each place counts; ``None`` where no sample has a mask."""
    class_conditions: tuple[Any, ...] = ()
    """One for each of the ``B`` samples, or none."""


def stack_masks(examples: Sequence[Example], device: device) -> Tensor | None:
    """The masks of a batch as ``(B, 1, *space)``, ones where a sample has none; ``None`` where none has."""
    if all(example.mask is None for example in examples):
        return None
    space = examples[0].latent.shape[1:]
    masks = [torch.ones(space) if e.mask is None else e.mask.float() for e in examples]
    return send(torch.stack(masks).unsqueeze(1), device)
