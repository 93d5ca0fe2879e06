"""One step instead of many: score implicit matching (Luo et al. 2024, "One-Step Diffusion Distillation through Score
Implicit Matching").

The paper keeps three models: the teacher, the generator, and the score of what the generator draws. Here they are one
frozen model and two adapters of a bank: none of them counts for the teacher, `MAIN` for the generator, `SCORE` for the
score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from krona_ops.errors import ConfigError

from ..batches.examples import Batch
from ..batches.transfer import send
from ..randomness import generator
from ..settings.groups import MAIN, OptimizerConfig, PreviewConfig
from .denoising import denoising
from .denoising_config import DenoisingConfig
from .noise import Draw, draw
from .protocol import Loss, Need, Other, Piece, Previews, Stateless, Turn
from .score_matching_config import ScoreMatchingConfig

if TYPE_CHECKING:
    from ..adapters.bank import Bank
    from ..backbone.protocol import Backbone

SCORE = "score"
"""The adapter that learns the score of what the generator draws."""


class ScoreMatching(Stateless):
    """The score's adapter learns to denoise what one step draws; then the one step moves to where the teacher's score and
    that one agree."""

    config_type: ClassVar[type] = ScoreMatchingConfig
    name: str = "score matching"

    def __init__(self, config: ScoreMatchingConfig) -> None:
        self.config = config
        self.needs: frozenset[Need] = frozenset({"unconditional"} if config.guidance != 1 else ())
        self.turns = (*(Turn(SCORE, f"score {n}") for n in range(config.score_steps)), Turn(MAIN, "generator"))
        # No first moment, as in the paper: what the score was a few steps ago is about another generator.
        moves = OptimizerConfig(learning_rate=config.score_rate, betas=(0.0, 0.999), weight_decay=0.0)
        self.others: Mapping[str, Other] = {SCORE: Other(None, moves)}
        self._levels = DenoisingConfig(
            levels=config.levels,
            level_mean=config.level_mean,
            level_std=config.level_std,
            level_scale=config.level_scale,
            level_shift=config.level_shift,
        )

    def begin(self, backbone: Backbone) -> tuple[str, ...]:
        """What a step costs.

        Raises:
            ConfigError: The one step begins above the model's largest noise level.
        """
        config, largest = self.config, float(backbone.levels(1)[0])
        if config.start_level > largest:
            raise ConfigError(
                f"The one step begins at noise level {config.start_level:g}, and the model's largest is {largest:g}.",
                where="objective.start_level",
                found=config.start_level,
                expected=f"at most {largest:g}",
                remedy="Set it to 0 for the model's largest.",
            )
        teacher = 1 if config.guidance == 1 else 2
        others = teacher + 1  # the score's own pass
        forward = 2 * config.score_steps + 1 + others
        held = 1 + others if config.gradient == "full" else 1
        return (
            f"Score matching: a step is {forward} passes of the model, {config.score_steps + held} of them with "
            f"gradients. Two adapters and their optimizers are kept, and the model once. At most the activations of "
            f"{held} {'passes are' if held > 1 else 'pass is'} held at a time; gradient checkpointing makes them small"
            f"{', and gradient: stopped leaves 1 of them' if held > 1 else ''}.",
        )

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """One term: the score's error on pictures of one step, or what these are moved by."""
        backbone, bank, batch, place = piece.backbone, piece.bank, piece.batch, self.turns.index(piece.turn)
        # Each turn of a step has chance of its own, though the prompts are the same.
        numbers = [number * len(self.turns) + place for number in piece.numbers]
        rngs = [generator(piece.seed, "one step", number) for number in numbers]
        noises = [torch.randn(batch.x0.shape[1:], generator=rng) for rng in rngs]
        noise = send(torch.stack(noises).to(batch.x0.dtype), batch.x0.device)
        drawn = draw(backbone, batch.x0, piece.seed, numbers, self._levels, "score noise")
        if piece.turn.adapter == SCORE:
            with torch.no_grad():
                x0 = self.one_step(backbone, bank, batch, noise)
            with bank.only(SCORE):
                yield Loss(denoising(backbone, replace(batch, x0=x0, mask=None), drawn))
            return
        x0 = self.one_step(backbone, bank, batch, noise)
        x_t = backbone.add_noise(x0, drawn.noise, drawn.sigma)
        with torch.set_grad_enabled(self.config.gradient == "full"):
            teacher, score = self.both(backbone, bank, batch, x_t, drawn.sigma)
        yield Loss(matching(teacher, score, x0, self.config))

    def held_out(self, backbone: Backbone, bank: Bank, batch: Batch, drawn: Draw) -> Tensor:
        """How far the two scores are from one another on a picture of one step: the divergence itself with the squared
        distance, as far as the score's adapter knows it.

        A picture of the batch is not looked at, its prompt is.
        """
        # The one step takes the noise backwards, so that it is another one than what its picture is hidden by.
        x0 = self.one_step(backbone, bank, batch, drawn.noise.flip(*range(1, drawn.noise.ndim)))
        x_t = backbone.add_noise(x0, drawn.noise, drawn.sigma)
        teacher, score = self.both(backbone, bank, batch, x_t, drawn.sigma)
        return ((teacher - score).float().square().flatten(1).mean(1) * backbone.loss_weight(drawn.sigma)).mean()

    def previews(self, config: PreviewConfig) -> Previews:
        """In one step without guidance, beside the teacher's in as many steps as the settings say."""
        trained, teacher = replace(config, steps=1, guidance=1.0), replace(config, guidance=self.config.guidance)
        return Previews(trained, teacher, self.config.start_level)

    def one_step(self, backbone: Backbone, bank: Bank, batch: Batch, noise: Tensor) -> Tensor:
        """``x0 (B, C, *space)`` that the generator draws from noise ``z`` of unit variance: ``D_G(σ₀ z, σ₀)``."""
        start = self.config.start_level or float(backbone.levels(1)[0])
        sigma = torch.full((len(noise),), start, device=noise.device)
        with bank.only(MAIN):
            return backbone.predict(backbone.add_noise(torch.zeros_like(noise), noise, sigma), sigma, batch.conditions)

    def both(self, backbone: Backbone, bank: Bank, batch: Batch, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher, with its guidance, and the score's adapter see in ``x_t``: ``D_T`` and ``D_F``."""
        guidance = self.config.guidance
        with bank.none():
            teacher = backbone.predict(x_t, sigma, batch.conditions)
            if guidance != 1:
                teacher = torch.lerp(backbone.predict(x_t, sigma, batch.unconditional), teacher, guidance)
        with bank.only(SCORE):
            return teacher, backbone.predict(x_t, sigma, batch.conditions)


def matching(teacher: Tensor, score: Tensor, x0: Tensor, config: ScoreMatchingConfig) -> Tensor:
    """``⟨d'(D_T − D_F), D_F − x0⟩`` per sample, as ``(B,)``: its gradient is that of the divergence of scores (Luo et al.
    2024, Theorem 3.1).

    The theorem speaks of scores ``s``; at one noise level they are denoised pictures times a number, which is left to
    the weight of the level: ``s_F − s_T = (D_F − D_T) a/σ²`` and ``s_F − ∇ log q(x_t | x0) = (D_F − x0) a/σ²`` where
    ``x_t = a x0 + σ ε``. Sums over a latent are means here, so that its size does not matter.

    Args:
        teacher, score, x0: ``(B, C, *space)``.
    """
    y = (teacher - score).float()
    if config.distance == "huber":
        y = y * (y.square().flatten(1).mean(1) + config.huber_share**2).rsqrt().reshape(-1, *[1] * (y.ndim - 1))
    return (y * (score - x0)).flatten(1).mean(1)
