"""Prior preservation without pictures: what the frozen model makes of the class stays what it was."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..backbone.protocol import Backbone
from ..batches.examples import Batch
from ..config import ObjectiveConfig
from .denoising import error
from .noise import Draw


def preservation(
    backbone: Backbone, batch: Batch, draw: Draw, config: ObjectiveConfig, without_adapter: AbstractContextManager[None]
) -> Tensor:
    """Error ``(B,)`` of the adapted model's prediction on the class caption against the frozen model's own.

    The noisy picture is the subject's; only the caption names its class alone (DreamBooth's prior term, Ruiz et al. 2022,
    eq. 2, with the model's prediction instead of its pictures as the target).
    """
    x_t = backbone.add_noise(batch.x0, draw.noise, draw.sigma)
    with without_adapter, torch.no_grad():
        target = backbone.predict(x_t, draw.sigma, batch.class_conditions)
    prediction = backbone.predict(x_t, draw.sigma, batch.class_conditions)
    return error(backbone, prediction, target, draw.sigma, None, config)
