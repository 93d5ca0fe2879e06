"""The settings of one step by pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from krona_ops.bounds import Within, require_fields
from krona_ops.errors import ConfigError
from krona_ops.formats.one_step import OneStep

from .samplers import stirs

Compare = Literal["complex", "magnitude"]
"""How Fourier coefficients are compared: as they are, or their magnitudes alone, which leaves open where a texture is."""
Distance = Literal["absolute", "squared"]
"""How differences count."""
_WEIGHT = Within(0, 1000)


@dataclass(frozen=True)
class PairsConfig:
    """An adapter learns to draw in one step what the model draws in many (after HiPA: Zhang and Hooi 2023), from pairs
    of a noise and the picture that came of it, with terms for what one step blurs."""

    kind: ClassVar[str] = "pairs"

    drawings: Annotated[int, Within(1, 1_000_000)] = 256
    """So many pairs are drawn before the training; a picture in one step is as good as they are many."""
    drawing_steps: Annotated[int, Within(1, 1000)] = 20
    """Steps of each drawing."""
    guidance: Annotated[float, Within(1, 100)] = 4.0
    """With which they are drawn, and so what one step without guidance will look like; 1 is none."""
    negative: str = ""
    """What guidance leads away from. It is learnt with the rest and cannot be changed afterwards."""
    sampler: str = "euler"
    """ComfyUI's name of the sampler; one that adds no noise on its way."""
    scheduler: str = "normal"
    """ComfyUI's name of the noise schedule; it begins at the model's largest noise level."""
    frequencies: Annotated[float, _WEIGHT] = 1.0
    """Weight of the error in high frequencies; 0 leaves it out."""
    edges: Annotated[float, _WEIGHT] = 1.0
    """Weight of the error in edges; 0 leaves it out. With both 0 the squared error of latents is all."""
    where: Literal["latents", "pixels"] = "latents"
    """Where edges and frequencies are compared. Pixels need the VAE, and memory for the way back through it."""
    cut: Annotated[float, Within(0, 0.5, open_high=True)] = 0.15
    """Frequencies above it are high, in cycles per pixel, or per place of the latents; 0.5 is the finest along an axis."""
    compare: Compare = "complex"
    """``complex``: the coefficients themselves, so each texture must be in its place. ``magnitude``: how strong they are,
    and not where."""
    distance: Distance = "absolute"
    """How differences of edges and coefficients count."""

    def __post_init__(self) -> None:
        require_fields(self)
        if stirs(self.sampler):
            raise ConfigError(
                f"The sampler {self.sampler} adds noise on its way.",
                where="objective.sampler",
                found=self.sampler,
                expected="one whose picture comes of the first noise alone",
                remedy="Choose euler, dpmpp_2m or another without chance.",
            )

    @property
    def has_terms(self) -> bool:
        """Whether anything counts besides the squared error of latents."""
        return self.frequencies > 0 or self.edges > 0

    def metadata(self) -> dict[str, str]:
        """What the file says of it, for whoever draws with it."""
        return OneStep().metadata()
