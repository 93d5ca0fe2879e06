"""The ordinary denoising loss: squared error of what the model itself predicts, ε, v or flow."""

from __future__ import annotations

from torch import Tensor

from ..backbone.protocol import Backbone, Batch
from ..noise import Draw


def denoising(backbone: Backbone, batch: Batch, draw: Draw) -> Tensor:
    """``mean ‖ε_pred − ε‖²`` per sample (v or flow where the model predicts those), as ``(B,)``.

    Hosts hand out the denoised ``x0``; since ``x0_pred − x0`` is the prediction's error times a function of σ, the exact
    weight ``w(σ)`` gives the same number for every kind of model (Ho et al. 2020, eq. 14; DiffuseKronA, eq. 1).
    """
    x_t = backbone.add_noise(batch.x0, draw.noise, draw.sigma)
    error = backbone.predict(x_t, draw.sigma, batch.conditions) - batch.x0
    return backbone.loss_weight(draw.sigma) * error.square().flatten(1).mean(1)
