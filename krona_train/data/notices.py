"""Notices for whoever trains about the files of a folder, such as which of them are not used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

LEFT_OUT = "Left out"
MOST_NAMES = 100
"""Names of one notice in the console and in a run's log; their number is always shown."""


@dataclass(frozen=True)
class Notice:
    """What becomes of some files, and why."""

    what: str
    """`LEFT_OUT`, or a few words such as ``Learnt whole``."""
    reason: str
    names: tuple[str, ...]
    """The files, as the folder has them."""

    def text(self, most: int = MOST_NAMES) -> str:
        """``Left out (2), a caption without a picture: a.txt, b.txt``.

        Args:
            most: Names at most; the number of the others follows them.
        """
        more = f" and {len(self.names) - most} more" if len(self.names) > most else ""
        return f"{self.what} ({len(self.names)}), {self.reason}: {', '.join(self.names[:most])}{more}"


def left_out(files: Iterable[tuple[str, str]]) -> tuple[Notice, ...]:
    """One notice for each reason, from names with their reasons."""
    grouped: dict[str, list[str]] = {}
    for name, reason in files:
        grouped.setdefault(reason, []).append(name)
    return tuple(Notice(LEFT_OUT, reason, tuple(names)) for reason, names in grouped.items())


def below(folder: str, notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """The notices with the folder's name before each file's."""
    return tuple(replace(notice, names=tuple(f"{folder}/{name}" for name in notice.names)) for notice in notices)


def printable(name: str) -> str:
    """A file's name for messages: what no message can hold becomes a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
