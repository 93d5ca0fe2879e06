"""What a training can be asked while it runs: by a file in its folder, which works on every system and between
processes."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class Ask(IntEnum):
    """A request; of several the largest counts. The file that asks has its name, in lower case."""

    NOTHING = 0
    SAVE = 1
    """Keep the state and the adapter as they are now, and go on."""
    FINISH = 2
    """End after the step that it is in, with the adapter as the result."""
    STOP = 3
    """End after the step that it is in, as if interrupted."""


def file_of(folder: Path, what: Ask) -> Path:
    """The file whose presence is the request."""
    return folder / what.name.lower()


def ask(folder: Path, what: Ask) -> None:
    """Ask the training that writes into this folder."""
    file_of(folder, what).touch()


def asked(folder: Path) -> Ask:
    """What the training is asked; it stays asked until it is forgotten."""
    return max((what for what in Ask if what and file_of(folder, what).exists()), default=Ask.NOTHING)


def forget(folder: Path, *what: Ask) -> None:
    """Remove requests that are obeyed, or left from an earlier training; all of them when none is named."""
    for each in what or tuple(Ask)[1:]:
        file_of(folder, each).unlink(missing_ok=True)
