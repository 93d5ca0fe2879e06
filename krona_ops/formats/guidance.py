"""What a file says of the guidance that it holds: which one its strength is, and what it leads away from.

An adapter that has learnt what classifier-free guidance does is linear in it: ``ΔW(ω) = (ω − 1) / (ω₁ − 1) · ΔW``, with
ω₁ the guidance of strength 1. So any loader's strength is a guidance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..border import Border, Limits
from ..errors import ConfigError

KEY = "krona.guidance"
"""Where the metadata has it, as JSON."""
_LIMITS = Limits(size=100_000, depth=2, values=16)
_MOST = 1000.0
_LEAST_AT_1 = 1.01
"""Guidance of strength 1; at 1 itself every strength would be none."""


@dataclass(frozen=True)
class Guided:
    """The guidance that an adapter has learnt."""

    lowest: float
    """It was trained from here."""
    highest: float
    """To here."""
    at_strength_1: float
    """The guidance of strength 1."""
    negative: str = ""
    """The prompt that it leads away from; it cannot be changed."""

    def strength(self, guidance: float) -> float:
        """The strength that is this guidance: 0 for 1, which is none."""
        return (guidance - 1) / (self.at_strength_1 - 1)

    def metadata(self) -> dict[str, str]:
        """As a file has it."""
        return {
            KEY: json.dumps(
                {
                    "lowest": self.lowest,
                    "highest": self.highest,
                    "at_strength_1": self.at_strength_1,
                    "negative": self.negative,
                }
            )
        }


def guidance_of(metadata: Mapping[str, str], where: str | None = None) -> Guided:
    """The guidance that an adapter's file speaks of.

    Args:
        where: The file, for errors.

    Raises:
        ConfigError: It speaks of none.
        AdapterFileError: What it says is no guidance.
    """
    text = metadata.get(KEY)
    if text is None:
        raise ConfigError(
            "This adapter has learnt no guidance.",
            where=where,
            found=f"no {KEY} in its file",
            expected="an adapter from Distill KronA with 'guidance'",
            remedy="Choose one, or apply this one with Load and Apply KronA.",
        )
    border = Border(where, remedy="Take the file as it was written by the training.", limits=_LIMITS)
    said = border.mapping(border.json(text, "its guidance"), "its guidance")
    lowest, highest, at_1 = (
        border.number(said.get(name), f"its guidance's {name}", least, _MOST)
        for name, least in (("lowest", 1.0), ("highest", 1.0), ("at_strength_1", _LEAST_AT_1))
    )
    negative = border.text(said.get("negative", ""), "its guidance's negative prompt")
    return Guided(lowest, highest, at_1, negative)
