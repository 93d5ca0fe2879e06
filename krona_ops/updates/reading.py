"""How the branch of the mode ``first`` in an adapter reads the first frame: its metadata says it."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import FormatError
from ..names.branches import READINGS, Reading
from ..shown import shown

READING = "krona.branch.reading"
"""The entry of the metadata; without one the first frame is read with the others."""


def reading_of(metadata: Mapping[str, str]) -> Reading:
    """What an adapter's metadata says.

    Raises:
        FormatError: It says so in a word that is not known here.

    >>> reading_of({}), reading_of({READING: "alone"})
    ('with the others', 'alone')
    """
    said = metadata.get(READING, READINGS[0])
    reading = next((each for each in READINGS if each == said), None)
    if reading is None:
        raise FormatError(
            "The file's branch reads the first frame in a way that this version does not know.",
            where=READING,
            found=shown(said),
            expected=" or ".join(READINGS),
            remedy="Get the file again, or a newer version of the pack.",
        )
    return reading


def in_metadata(reading: Reading) -> dict[str, str]:
    """What the metadata of an adapter says whose branch reads the first frame so; nothing for the way that goes without
    saying.

    >>> in_metadata("with the others"), in_metadata("alone")
    ({}, {'krona.branch.reading': 'alone'})
    """
    return {} if reading == READINGS[0] else {READING: reading}
