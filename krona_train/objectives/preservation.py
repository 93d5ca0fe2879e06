"""Prior preservation: what the model knows of the subject's class stays what it was (Ruiz et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from krona_ops.errors import ConfigError, DataError

from ..backbone.protocol import Backbone
from ..batches.examples import Batch, Example, Group, Item
from ..batches.samples import as_items
from ..settings.groups import PriorConfig
from .denoising import Denoising, error
from .denoising_config import DenoisingConfig
from .needs import members_of
from .noise import Draw
from .protocol import Loss, Objective, Piece, Wrapping


class PriorPreservation(Wrapping):
    """Another objective with a term for the subject's class.

    The term is taken on pictures of the class, or without pictures on what the frozen model makes of its caption.

    Args:
        inner: What is minimised besides; the class's pictures are taken as it takes those of the subject.

    Raises:
        ConfigError: The objective is none that denoises pictures.
    """

    config_type: ClassVar[type] = PriorConfig
    config: PriorConfig
    _inner: Denoising

    def __init__(self, inner: Objective, config: PriorConfig) -> None:
        if not isinstance(inner, Denoising):
            raise ConfigError(
                f"Prior preservation goes with denoising, and not with {inner.name}.",
                found=inner.name,
                expected=Denoising.name,
                remedy="Set prior.weight to 0.",
            )
        super().__init__(inner)
        self.config = config
        with_pictures = config.source == "pictures"
        self.turns = tuple(replace(t, sources=(*t.sources, "class data")) if with_pictures else t for t in inner.turns)

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """The inner terms; and the class's, in pieces of its pictures or after each piece of the subject's."""
        if piece.source == "class data":
            yield from (loss._replace(weight=self.config.weight * loss.weight) for loss in self._inner.losses(piece))
            return
        yield from self._inner.losses(piece)
        if self.config.source == "model":
            drawn, settings = self._inner.drawn(piece), self._inner.config
            distance = preservation(piece.backbone, piece.batch, drawn, settings, piece.bank.none())
            yield Loss(self.config.weight * distance)


def preservation(
    backbone: Backbone, batch: Batch, draw: Draw, config: DenoisingConfig, without_adapter: AbstractContextManager[None]
) -> Tensor:
    """Error ``(B,)`` of the adapted model's prediction on the class caption against the frozen model's own.

    The noisy picture is the subject's; only the caption names its class alone (DreamBooth's prior term, Ruiz et al.
    2022, eq. 2, with the model's prediction instead of its pictures as the target).
    """
    x_t = backbone.add_noise(batch.x0, draw.noise, draw.sigma)
    with without_adapter, torch.no_grad():
        target = backbone.predict(x_t, draw.sigma, batch.class_conditions)
    prediction = backbone.predict(x_t, draw.sigma, batch.class_conditions)
    return error(backbone, prediction, target, draw.sigma, None, config)


def prior_items(
    prior: PriorConfig, items: Sequence[Item | Group], class_data: Sequence[Item | Group | Example]
) -> tuple[Item | Group, ...]:
    """The class pictures that the settings want; none where the model itself is the prior, or where there is no prior.

    Raises:
        DataError: What the prior needs is missing: class pictures, or what a picture's caption says of its class.
    """
    if not prior.weight:
        return ()
    if prior.source == "pictures":
        if not class_data:
            raise DataError(
                "Prior preservation with pictures has no class pictures.",
                found=0,
                expected="at least one picture of the subject's class",
                remedy="Name a folder or a number of class pictures, or take the model itself as the prior.",
            )
        return as_items(class_data)
    for member in (member for item in items for member in members_of(item)):
        for example in (*member.forms, *member.uncaptioned):
            if example.class_condition is None:
                raise DataError(
                    f'Prior preservation does not know what "{example.caption}" is a kind of.',
                    found="no class caption",
                    expected="an encoded class caption for every picture",
                    remedy="Give a class prompt, or the trigger word that the captions hold.",
                )
    return ()
