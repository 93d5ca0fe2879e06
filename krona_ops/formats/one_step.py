"""What a file says of the one step that it was trained for: the noise level at which that step begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..border import Border, Limits
from ..errors import ConfigError

KEY = "krona.one_step"
"""Where the metadata has it, as JSON."""
_LIMITS = Limits(size=1000, depth=2, values=8)
_MOST = 1e6


@dataclass(frozen=True)
class OneStep:
    """One step from noise to a picture, without guidance."""

    sigma: float = 0.0
    """The noise level that it begins at, in the model's own parameter; 0 is the largest that the model has."""

    def metadata(self) -> dict[str, str]:
        """As a file has it."""
        return {KEY: json.dumps({"sigma": self.sigma})}


def one_step_of(metadata: Mapping[str, str], where: str | None = None) -> OneStep:
    """The one step that an adapter's file speaks of.

    Args:
        where: The file, for errors.

    Raises:
        ConfigError: It speaks of none.
        AdapterFileError: What it says is no noise level.
    """
    text = metadata.get(KEY)
    if text is None:
        raise ConfigError(
            "This adapter has not learnt to draw in one step.",
            where=where,
            found=f"no {KEY} in its file",
            expected="an adapter from Distill KronA with 'one step'",
            remedy="Choose one, or draw with this one in as many steps as usual.",
        )
    border = Border(where, remedy="Take the file as it was written by the training.", limits=_LIMITS)
    said = border.mapping(border.json(text, "its one step"), "its one step")
    return OneStep(border.number(said.get("sigma"), "its one step's sigma", 0.0, _MOST))
