"""The settings of guidance in an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from krona_ops.bounds import Within, require_fields
from krona_ops.errors import ConfigError
from krona_ops.formats.guidance import Guided


@dataclass(frozen=True)
class GuidanceConfig:
    """An adapter learns what classifier-free guidance does (AGD: Jensen and Sadat 2025), so that one pass of the model
    is enough where guidance takes two. Its strength is the guidance."""

    kind: ClassVar[str] = "guidance"

    lowest: Annotated[float, Within(1, 100)] = 1.0
    """The smallest guidance that is learnt; 1 is none."""
    highest: Annotated[float, Within(1, 100)] = 6.0
    """The largest."""
    at_strength_1: Annotated[float, Within(1.01, 100)] = 4.0
    """Which guidance strength 1 of the file is: strength s is guidance 1 + s · (at_strength_1 − 1) in any loader."""
    negative: str = ""
    """What guidance leads away from. It is learnt with the rest and cannot be changed afterwards."""
    drawings: Annotated[int, Within(1, 1_000_000)] = 64
    """So many guided drawings are made before the training, to learn from what the model sees on its way."""
    drawing_steps: Annotated[int, Within(1, 1000)] = 12
    """Steps of each drawing; 8 to 24."""
    states: Literal["guided", "plain"] = "guided"
    """What is learnt from: the states of guided drawings, which are those that the adapter will meet, or of plain ones,
    to compare with."""
    sampler: str = "euler"
    """ComfyUI's name of the sampler of the drawings: best the one that draws afterwards, whose states are learnt then."""
    scheduler: str = "normal"
    """ComfyUI's name of their noise schedule."""

    def __post_init__(self) -> None:
        require_fields(self)
        if not self.lowest < self.highest:
            raise ConfigError(
                f"The range of guidance from {self.lowest:g} to {self.highest:g} is empty.",
                where="objective",
                found=f"{self.lowest:g} to {self.highest:g}",
                expected="lowest below highest",
                remedy="Set lowest to 1 and highest to the largest guidance that you draw with.",
            )

    def metadata(self) -> dict[str, str]:
        """What the file says of it, for whoever turns a guidance into a strength."""
        return Guided(self.lowest, self.highest, self.at_strength_1, self.negative).metadata()
