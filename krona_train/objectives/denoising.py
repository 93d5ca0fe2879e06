"""The ordinary denoising loss: error of what the model itself predicts, ε, v or flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from ..backbone.protocol import Backbone
from ..batches.examples import Batch
from .denoising_config import DenoisingConfig
from .noise import NOISE, Draw, draw
from .protocol import Loss, Need, Piece, Stateless
from .weighting import weighting


class Denoising(Stateless):
    """The ordinary denoising loss on pictures, see `denoising`."""

    config_type: ClassVar[type] = DenoisingConfig
    name: str = "denoising"
    needs: frozenset[Need] = frozenset({"pictures"})

    def __init__(self, config: DenoisingConfig) -> None:
        self.config = config

    def losses(self, piece: Piece) -> Iterator[Loss]:
        """One term: the error of the adapted model's prediction."""
        yield Loss(denoising(piece.backbone, piece.batch, self.drawn(piece), self.config))

    def drawn(self, piece: Piece) -> Draw:
        """Noise and noise levels of the samples, the same whenever it is asked for."""
        return draw(piece.backbone, piece.batch.x0, piece.seed, piece.numbers, self.config, NOISE[piece.source])


def denoising(backbone: Backbone, batch: Batch, draw: Draw, config: DenoisingConfig | None = None) -> Tensor:
    """``mean ‖ε_pred − ε‖²`` per sample (v or flow where the model predicts those), as ``(B,)``.

    Hosts hand out the denoised ``x0``; since ``x0_pred − x0`` is the prediction's error times a function of σ, the
    exact weight ``w(σ)`` gives the same number for every kind of model (Ho et al. 2020, eq. 14; DiffuseKronA, eq. 1).
    """
    config = config or DenoisingConfig()
    x_t = backbone.add_noise(batch.x0, draw.noise, draw.sigma)
    prediction = backbone.predict(x_t, draw.sigma, batch.conditions)
    return error(backbone, prediction, batch.x0, draw.sigma, batch.mask, config)


def error(
    backbone: Backbone, prediction: Tensor, target: Tensor, sigma: Tensor, mask: Tensor | None, config: DenoisingConfig
) -> Tensor:
    """Weighted distance ``(B,)`` of two denoised pictures, in units of what the model predicts.

    Args:
        prediction: ``(B, C, *space)``.
        target: ``(B, C, *space)``.
        mask: ``(B, 1, *space)``; the mean is taken over what it lets count.
    """
    slope = backbone.loss_weight(sigma)
    difference = (prediction - target).float()
    if config.distance == "l2":
        distance = mean(difference.square(), mask) * slope
    else:
        # Pseudo-Huber with diffusers' scale: 2c(√(e² + c²) − c) is e² for small errors e and 2c|e| for large ones.
        squared = difference.square() * slope.reshape(-1, *[1] * (difference.ndim - 1))
        distance = mean(2 * config.huber_c * ((squared + config.huber_c**2).sqrt() - config.huber_c), mask)
    return distance * weighting(config, backbone.snr(sigma), slope)


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per sample ``(B,)`` of ``(B, C, *space)``, weighted by ``(B, 1, *space)``."""
    if mask is None:
        return values.flatten(1).mean(1)
    return (values * mask).flatten(1).sum(1) / (mask.flatten(1).sum(1) * values.shape[1])
