"""Classifier-free guidance, learnt by an adapter (AGD: Jensen and Sadat 2025, arXiv 2503.07274)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..settings.groups import MAIN, PreviewConfig
from .denoising import error
from .denoising_config import DenoisingConfig
from .guidance_config import GuidanceConfig
from .protocol import Loss, Need, Piece, Previews, Stateless
from .rollouts import Rollouts

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..backbone.protocol import Backbone
    from ..batches.examples import Batch
    from .noise import Draw


class GuidanceDistillation(Stateless):
    """The error of one pass with the adapter against the guided prediction, on states of guided drawings.

    The guided prediction at guidance ω is ``D(x, ∅) + ω (D(x, c) − D(x, ∅))``. The update is
    ``ΔW(ω) = (ω − 1) / (ω₁ − 1) · ΔW`` with ω₁ the guidance of strength 1, so ω = 1 is the base itself. Both stand in
    `Seen`: the target is what the drawing has computed anyway.
    """

    config_type: ClassVar[type] = GuidanceConfig
    name: str = "guidance"
    needs: frozenset[Need] = frozenset({"drawings"})

    def __init__(self, config: GuidanceConfig) -> None:
        self.config = config
        self.rollouts = Rollouts(
            config.drawings,
            config.drawing_steps,
            config.lowest,
            config.highest,
            config.negative,
            guided=config.states == "guided",
            sampler=config.sampler,
            scheduler=config.scheduler,
        )

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """One term: the error in what the model predicts itself."""
        yield Loss(self._error(piece.backbone, piece.bank, piece.batch))

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """That of states of drawings that are kept out."""
        return self._error(backbone, bank, batch).mean()

    def previews(self, config: PreviewConfig) -> Previews:
        """In one pass with the adapter at strength 1, beside the base with the guidance that this is."""
        trained = replace(config, guidance=1.0, negative=self.config.negative)
        return Previews(trained, replace(trained, guidance=self.config.at_strength_1))

    def _error(self, backbone: Backbone, bank: Bank, batch: Batch) -> Tensor:
        """``(B,)``."""
        seen = batch.seen
        assert seen is not None  # `require_needs` has seen to it
        gate = (seen.guidance - 1) / (self.config.at_strength_1 - 1)
        with bank.only(**{MAIN: gate}):
            prediction = backbone.predict(seen.x_t, seen.sigma, batch.conditions)
        return error(backbone, prediction, seen.x0, seen.sigma, None, DenoisingConfig())
