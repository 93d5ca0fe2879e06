"""One step, learnt from pairs of a noise and the picture that many steps make of it (after HiPA: Zhang and Hooi 2023,
arXiv 2311.18158)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..settings.groups import PreviewConfig
from .denoising import mean
from .frequencies import edge_error, high_error
from .pairs_config import PairsConfig
from .protocol import Loss, Need, Piece, Previews, Stateless
from .rollouts import Rollouts

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..backbone.protocol import Backbone
    from ..batches.examples import Batch, SeenBatch
    from .noise import Draw


class PairDistillation(Stateless):
    """``‖x̂₀ − x*‖² + λₑ |Sobel p − Sobel q| + λ_f |HF(p) − HF(q)|`` with ``x̂₀`` the adapted model's prediction in the
    noise that a drawing began with, and ``x*`` the picture that it ended at.

    ``p`` and ``q`` are ``x̂₀`` and ``x*``, in latents or decoded. All terms are means, so that the weights mean the same
    for every size of picture.
    """

    config_type: ClassVar[type] = PairsConfig
    name: str = "pairs"

    def __init__(self, config: PairsConfig) -> None:
        self.config = config
        self._decodes = config.where == "pixels" and config.has_terms
        self.needs: frozenset[Need] = frozenset({"drawings", "decoder"} if self._decodes else {"drawings"})
        self.rollouts = Rollouts(
            config.drawings,
            config.drawing_steps,
            config.guidance,
            config.guidance,
            config.negative,
            keep="ends",
            sampler=config.sampler,
            scheduler=config.scheduler,
        )

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """One term: all of it comes of one prediction."""
        seen = _seen(piece.batch)
        prediction = piece.backbone.predict(seen.x_t, seen.sigma, piece.batch.conditions).float()
        loss = mean((prediction - seen.x0).square(), None)
        if self.config.has_terms:
            loss = loss + self._terms(piece.backbone, prediction, seen.x0)
        yield Loss(loss)

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """The squared error of latents alone, of pairs that are kept out."""
        seen = _seen(batch)
        prediction = backbone.predict(seen.x_t, seen.sigma, batch.conditions).float()
        return mean((prediction - seen.x0).square(), None).mean()

    def previews(self, config: PreviewConfig) -> Previews:
        """In one step without guidance, beside what a drawing comes to."""
        trained = replace(config, steps=1, guidance=1.0, negative=self.config.negative)
        how = self.config
        teacher = replace(
            trained, steps=how.drawing_steps, guidance=how.guidance, sampler=how.sampler, scheduler=how.scheduler
        )
        return Previews(trained, teacher)

    def _terms(self, backbone: Backbone, p: Tensor, q: Tensor) -> Tensor:
        """Of edges and high frequencies, ``(B,)``."""
        config = self.config
        if self._decodes:
            with torch.no_grad():
                q = backbone.decode(q)
            p = backbone.decode(p)
        terms = p.new_zeros(len(p))
        if config.edges:
            terms = terms + config.edges * edge_error(p, q, config.distance)
        if config.frequencies:
            terms = terms + config.frequencies * high_error(p, q, config.cut, config.compare, config.distance)
        return terms


def _seen(batch: Batch) -> SeenBatch:
    """What the drawings began with and ended at."""
    assert batch.seen is not None  # `require_needs` has seen to it
    return batch.seen
