"""The settings of the ordinary denoising loss: what counts as an error, and at which noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from krona_ops.bounds import Within, require_fields

Weighting = Literal["none", "min_snr", "debiased", "p2"]
Levels = Literal["uniform", "logit_normal", "mode", "shifted"]
Distance = Literal["l2", "huber"]


@dataclass(frozen=True)
class DenoisingConfig:
    """What the training minimises, and at which noise levels."""

    kind: ClassVar[str] = "denoising"

    distance: Distance = "l2"
    """``l2`` is the mean squared error. ``huber`` is pseudo-Huber: less pull from single wrong places in a picture."""
    huber_c: Annotated[float, Within(0.0001, 100)] = 0.1
    """Errors well above this count linearly instead of squared (diffusers' ``huber_c``)."""
    weighting: Weighting = "none"
    """How noise levels count. ``none``: as the model predicts (Ho et al. 2020). ``min_snr``: Hang et al. 2023.
    ``debiased``: Yu et al. 2024. ``p2``: Choi et al. 2022."""
    snr_gamma: Annotated[float, Within(0.01, 100)] = 5.0
    """γ of min-SNR."""
    p2_gamma: Annotated[float, Within(0, 10)] = 1.0
    """γ of P2; its k is 1."""
    levels: Levels = "uniform"
    """Which noise levels are drawn, in the model's own time: ``uniform``, ``logit_normal`` and ``mode`` (Esser et al.
    2024), ``shifted`` (towards more noise, for large pictures)."""
    level_mean: Annotated[float, Within(-10, 10)] = 0.0
    """Of ``logit_normal``."""
    level_std: Annotated[float, Within(0.01, 10)] = 1.0
    """Of ``logit_normal``."""
    level_scale: Annotated[
        float, Within(0, 1.75, remedy="Above that, levels fall while the draw rises; 1.29 is Stable Diffusion 3's.")
    ] = 1.29
    """Of ``mode``: Esser et al. 2024, eq. 20; 0 is uniform."""
    level_shift: Annotated[float, Within(0.01, 100)] = 2.0
    """Of ``shifted``, on top of the model's own shift: t becomes shift · t / (1 + (shift − 1) · t); above 1 is more
    noise."""
    noise_offset: Annotated[float, Within(0, 1)] = 0.0
    """Each channel's noise is shifted as a whole by this much, at random: lets ε-models learn very dark and bright
    pictures."""
    embedded_guidance: Annotated[float, Within(0, 100)] = 1.0
    """What a model that was distilled with guidance is told (Flux dev, Flux 2 dev, HunyuanVideo): 1 asks for the
    picture itself, as every trainer does. 0 leaves it to ComfyUI, 3.5 for Flux and 6 for HunyuanVideo. Other models
    have no such input."""

    def __post_init__(self) -> None:
        require_fields(self)
