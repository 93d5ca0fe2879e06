"""Cameras around one thing in the middle: where they stand, as a value, and the ways to say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError, SizeError
from ..shown import shown

Projection = Literal["orthographic", "perspective"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
MOST_VIEWS = 256
"""Of one set of cameras."""
MOST_NUMBERS = 2**28
"""Of the maps of all cameras, six for each pixel: a gigabyte."""
LONGEST = 20_000
"""Characters of a text that says where cameras stand."""
SIX = ((0.0, 0.0), (45.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0), (315.0, 0.0))
"""The views that MV-Adapter's files were trained on."""


@dataclass(frozen=True)
class Cameras:
    """Cameras that look at the middle, each ``distance`` away from it, with the third axis upward."""

    views: tuple[tuple[float, float], ...]
    """``(azimuth, elevation)`` of each, in degrees.

    Azimuth 0 is in front, 90 to the right of the camera that stands there; elevation 90 is straight above.
    """
    width: int
    """Of the pictures, in pixels."""
    height: int
    projection: Projection = "orthographic"
    distance: float = 1.8
    """From the middle. Rays of an orthographic camera do not depend on it."""
    field_of_view: float = 40.0
    """In degrees, over the width of the picture; of a perspective camera."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.views) <= MOST_VIEWS:
            raise _refused("views", len(self.views), f"a number of cameras from 1 to {MOST_VIEWS}")
        for azimuth, elevation in self.views:
            if not math.isfinite(azimuth):
                raise _refused("azimuth", azimuth, "a number of degrees")
            if not -90 <= elevation <= 90:
                raise _refused("elevation", elevation, "a number of degrees from -90 to 90")
        for name, side in (("width", self.width), ("height", self.height)):
            if side < 1:
                raise _refused(name, side, "a number of pixels from 1")
        count = 6 * len(self.views) * self.width * self.height
        if count > MOST_NUMBERS:
            raise SizeError(
                f"The maps of {len(self.views)} cameras of {self.width} × {self.height} pixels have {count:,} numbers.",
                where="KronA Cameras",
                found=count,
                expected=f"{MOST_NUMBERS:,} at most",
                remedy="Take fewer cameras or smaller pictures: the maps are brought to the size that is sampled.",
            )
        if self.projection not in PROJECTIONS:
            raise _refused("projection", self.projection, " or ".join(PROJECTIONS))
        if not 0 < self.distance < math.inf:
            raise _refused("distance", self.distance, "a number above 0")
        if not 0 < self.field_of_view < 180:
            raise _refused("field_of_view", self.field_of_view, "a number of degrees between 0 and 180")


def orbit(count: int, start: float, elevations: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """So many views at equal distances around the thing, from ``start`` on, at each elevation one round.

    >>> orbit(4, 0.0, (0.0,))
    ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (270.0, 0.0))
    """
    if not 1 <= count <= MOST_VIEWS:
        raise _refused("views", count, f"a number of cameras from 1 to {MOST_VIEWS}")
    return tuple(((start + 360.0 * n / count) % 360.0, elevation) for elevation in elevations for n in range(count))


def read_elevations(text: str) -> tuple[float, ...]:
    """Elevations in degrees from a text, separated by commas.

    Raises:
        ConfigError: A part is no elevation, or there is none.
    """
    parts = [part.strip() for part in _short(text, "elevations").replace("\n", ",").split(",")]
    values = tuple(_degrees(part, "elevations", 90) for part in parts if part)
    if not values:
        raise _refused("elevations", "empty", "one or more elevations such as 0, 30")
    return values


def read_views(text: str) -> tuple[tuple[float, float], ...]:
    """Views from lines ``azimuth, elevation`` in degrees; empty lines count for nothing.

    Raises:
        ConfigError: A line is no view, or there is none.
    """
    views = []
    for number, line in enumerate(_short(text, "lines").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split(",")
        where = f"line {number}"
        if len(parts) != 2:
            raise ConfigError(
                f'"{shown(line.strip())}" is no view.',
                where=where,
                found=line,
                expected="azimuth, elevation",
                remedy="Write two numbers of degrees with a comma between them, such as 45, 0.",
            )
        views.append((_degrees(parts[0], where), _degrees(parts[1], where, 90)))
    if not views:
        raise _refused("lines", "empty", "one view in each line, such as 45, 0")
    return tuple(views)


def _short(text: str, where: str) -> str:
    if len(text) > LONGEST:
        raise _refused(where, f"a text of {len(text):,} characters", f"one of {LONGEST:,} at most")
    return text


def _degrees(text: str, where: str, most: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > most:
        span = f" from -{most:g} to {most:g}" if most < math.inf else ""
        raise _refused(where, f'"{shown(text.strip())}"', f"a number of degrees{span}")
    return value


def _refused(where: str, value: object, expected: str) -> ConfigError:
    return ConfigError(
        f"It is {value}, not {expected}.", where=where, found=value, expected=expected, remedy=f"Give {expected}."
    )
