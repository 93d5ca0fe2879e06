"""Where the views of a thing were taken from, and in which order they come: ``cameras.json``."""

from __future__ import annotations

from pathlib import Path

from krona_ops.border import Border, Limits
from krona_ops.errors import DataError

from ..batches.camera import AZIMUTHS, ELEVATIONS, Camera
from .described import LONGEST_NAME

FILE = "cameras.json"
"""Its name, in small letters."""
REMEDY = (
    'It is a list with {"file": "front.png", "azimuth": 0, "elevation": 0} for each picture of a group, '
    "in the order of the views."
)
_LIMITS = Limits(size=1_000_000, depth=8, values=40_000)
_KEYS = ("file", "azimuth", "elevation")


def read_cameras(path: Path) -> tuple[tuple[str, Camera], ...]:
    """The names of a group's pictures with their cameras, in the order of the views.

    Raises:
        DataError: It cannot be read, is no such list, or says more than such a list can.
    """
    border = Border(str(path), DataError, REMEDY, _LIMITS)
    try:
        with path.open("rb") as file:
            text = file.read(_LIMITS.size + 1)  # one byte more than is read as JSON, whatever stands behind it
    except OSError as error:
        raise DataError(
            f"The file with the cameras cannot be read: {error.strerror or error}.",
            where=str(path),
            found=str(error),
            expected="a file that may be read",
            remedy="Check its permissions, or take it away.",
        ) from error
    views = border.sequence(border.json(text, "The file"), "The file")
    return tuple(_view(border, view, f"view {number}") for number, view in enumerate(views, 1))


def _view(border: Border, value: object, what: str) -> tuple[str, Camera]:
    row = border.mapping(value, what)
    for key in row:
        border.choice(key, f"A key of {what}", _KEYS)
    name = border.text(row.get("file"), f"The file of {what}", LONGEST_NAME)
    azimuth = border.number(row.get("azimuth"), f"The azimuth of {what}", AZIMUTHS.low, AZIMUTHS.high)
    elevation = border.number(row.get("elevation"), f"The elevation of {what}", ELEVATIONS.low, ELEVATIONS.high)
    return name, Camera(azimuth, elevation)
