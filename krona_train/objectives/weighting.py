"""How much each noise level counts."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoising_config import DenoisingConfig


def weighting(config: DenoisingConfig, snr: Tensor, loss_weight: Tensor) -> Tensor:
    """What the squared error of the model's own prediction is multiplied by, per sample.

    All three are defined by what they make of the error of ``x0``, so that ε-, v- and flow-models train on the same
    thing: min-SNR ``min(snr, γ)`` (Hang et al. 2023, eq. 7 to 9), debiased ``√snr`` (Yu et al. 2024: 1/√snr on the
    error of ε), P2 ``snr / (1 + snr)^γ`` (Choi et al. 2022, eq. 8).

    Args:
        snr: ``(B,)``, at the samples' noise levels.
        loss_weight: ``(B,)``, what the squared error of ``x0`` is multiplied by to become that of the prediction.
    """
    if config.weighting == "none":
        return torch.ones_like(loss_weight)
    if config.weighting == "min_snr":
        wanted = snr.clamp(max=config.snr_gamma)
    elif config.weighting == "debiased":
        wanted = snr.sqrt()
    else:
        wanted = snr / (1 + snr) ** config.p2_gamma
    return wanted / loss_weight
