"""Where a picture of a thing was taken from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from krona_ops.bounds import Within, require_fields

AZIMUTHS = Within(-360, 360)
ELEVATIONS = Within(-90, 90)


@dataclass(frozen=True)
class Camera:
    """A camera that looks at the middle of a thing.

    Raises:
        ConfigError: An angle is out of its bounds.
    """

    azimuth: Annotated[float, AZIMUTHS]
    """Around the thing, in degrees."""
    elevation: Annotated[float, ELEVATIONS] = 0.0
    """Above the thing's middle, in degrees."""

    def __post_init__(self) -> None:
        require_fields(self)
