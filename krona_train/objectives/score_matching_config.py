"""The settings of one step by score implicit matching (Luo et al. 2024: SIM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from krona_ops.bounds import Within, require_fields
from krona_ops.formats.one_step import OneStep

from .denoising_config import Distance, Levels

Gradient = Literal["full", "stopped"]


@dataclass(frozen=True)
class ScoreMatchingConfig:
    """An adapter learns to draw in one step what the model draws in many, from prompts alone."""

    kind: ClassVar[str] = "score matching"

    gradient: Gradient = "full"
    """What the loss of the adapter is differentiated through. ``full``: the teacher's and the score's predictions too, as
    the theorem wants it. ``stopped``: the drawn picture alone, which holds one pass's activations instead of four and is
    the gradient of another divergence (distribution matching, Yin et al. 2024). Not ``full`` with ``memory.offload``."""
    distance: Distance = "huber"
    """Of the two scores. ``huber`` is pseudo-Huber, the paper's best. ``l2`` is the squared distance, and its loss that of
    SiD with α = 1 (Zhou et al. 2024)."""
    huber_share: Annotated[float, Within(0, 100)] = 0.05
    """Of ``huber``: scores count linearly where they differ by much more than this, as the root of the mean square of a
    latent's numbers; below it, squared."""
    guidance: Annotated[float, Within(0, 100)] = 3.0
    """Of the teacher, as a sampler's cfg; the adapter then draws as if with it at cfg 1. 1 is none, and asks the model
    once instead of twice."""
    start_level: Annotated[float, Within(0, 100_000)] = 0.0
    """Noise level of the one step, in the model's own parameter. 0 is the largest one, where any sampler with one step
    begins; a lower one needs a sampler that is told where to begin."""
    score_steps: Annotated[int, Within(1, 64)] = 2
    """So many steps of the score's adapter for each one of the result."""
    score_rate: Annotated[float, Within(0, 1, open_low=True)] = 5e-4
    """Learning rate of the score's adapter: as that of the result, or larger. It has the same layers."""
    levels: Levels = "uniform"
    """Which noise levels the scores are learnt and matched at; see ``denoising``."""
    level_mean: Annotated[float, Within(-10, 10)] = 0.0
    """Of ``logit_normal``."""
    level_std: Annotated[float, Within(0.01, 10)] = 1.0
    """Of ``logit_normal``."""
    level_scale: Annotated[float, Within(0, 1.75, remedy="Above that, levels fall while the draw rises.")] = 1.29
    """Of ``mode``; 0 is uniform."""
    level_shift: Annotated[float, Within(0.01, 100)] = 2.0
    """Of ``shifted``; above 1 is more noise."""

    def __post_init__(self) -> None:
        require_fields(self)

    def metadata(self) -> dict[str, str]:
        """What the file says of it, for whoever draws with it."""
        return OneStep(self.start_level).metadata()
