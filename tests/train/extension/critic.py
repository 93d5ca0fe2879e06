"""An objective that the pack does not have: a second adapter learns to denoise, and the first one to differ from it
where it errs; it remembers how large its losses were."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from krona_ops import TargetRule
from krona_train.config import AdapterConfig, DenoisingConfig, OptimizerConfig
from krona_train.objectives.denoising import denoising, error
from krona_train.objectives.noise import draw
from krona_train.objectives.protocol import Loss, Other, Previews, Turn
from krona_train.settings.groups import MAIN

CRITIC = "critic"
_PLAIN = DenoisingConfig()


@dataclass(frozen=True)
class CriticConfig:
    kind: ClassVar[str] = "critic"
    pull: float = 0.5
    """How much the two shall agree."""


class Critic:
    config_type = CriticConfig
    name = "critic"
    beside, take, rollouts = None, 0, None
    needs = frozenset({"pictures", "unconditional", "decoder"})
    turns = (Turn(CRITIC, "critic's"), Turn(MAIN, "main"))
    others: ClassVar = {
        CRITIC: Other(
            AdapterConfig(kind="difference", targets=(TargetRule(projections=(), pattern=r"attn2\.to_(q|out\.0)"),)),
            OptimizerConfig(learning_rate=3e-3, rate_by_width=0.0),
        )
    }

    def __init__(self, config):
        self.config, self.mean, self.seen = config, torch.zeros(2), 0

    def begin(self, backbone):
        return ("The critic learns too.",)

    def previews(self, config):
        return Previews(config)

    def losses(self, piece):
        backbone, batch = piece.backbone, piece.batch
        drawn = draw(backbone, batch.x0, piece.seed + (piece.turn.adapter == CRITIC), piece.numbers)
        half = 0.5 + 0.5 * drawn.sigma  # a gate that depends on the noise level
        if piece.turn.adapter == CRITIC:
            with piece.bank.only(critic=half):
                losses = denoising(backbone, batch, drawn)
            self._note(0, losses)
            yield Loss(losses)
            return
        x_t = backbone.add_noise(batch.x0, drawn.noise, drawn.sigma)
        with piece.bank.only(CRITIC), torch.no_grad():
            critics = backbone.predict(x_t, drawn.sigma, batch.conditions)
        with piece.bank.none(), torch.no_grad():
            plain = backbone.predict(x_t, drawn.sigma, batch.unconditional)
        losses = denoising(backbone, batch, drawn)
        self._note(1, losses)
        yield Loss(losses, 1.0 / (1.0 + float(self.mean[1])))
        ours = backbone.predict(x_t, drawn.sigma, batch.conditions)
        apart = error(backbone, ours, (critics + plain) / 2, drawn.sigma, None, _PLAIN)
        yield Loss(self.config.pull * apart + 1e-3 * backbone.decode(ours).square().flatten(1).mean(1))

    def _note(self, which, losses):
        self.mean[which] = 0.9 * self.mean[which] + 0.1 * losses.detach().mean().cpu()
        self.seen += 1

    def capture(self):
        return {"mean": self.mean.clone()}, {"seen": self.seen}

    def restore(self, tensors, numbers):
        self.mean, self.seen = tensors["mean"].clone(), numbers["seen"]
