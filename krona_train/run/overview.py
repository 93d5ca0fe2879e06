"""The runs in a folder at a glance: ten thousand of them within a second, and within a tenth of one when they are asked
for again.

A run is looked at through the names in its folder and the two ends of its rows. What that came to, a few plain values,
is kept until the folder or the rows have changed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .layout import METRICS, RESULT, SETTINGS, STATE_PREFIX, STOPPED_PREFIX, SUFFIX
from .metrics import parsed
from .reading import Standing, leads_away, own, standing_of
from .row import Row

_HEAD, _TAIL, _FAR = 4096, 16_384, 1 << 20
"""Bytes of the rows that are read: at the start, at the end, and at the end where the last of them do not say when
their part began."""
_FEW, _TURNS = 1000, 8
"""Of more folders than these, not each look asks each folder for its time, but every eighth one. What a training leaves
there is followed by a row, so only what somebody takes away by hand is noticed later."""
_SETTLED = 100_000_000
"""Nanoseconds: what is younger may change once more without its time changing, for clocks of disks are coarse; it is
not kept."""


@dataclass(frozen=True)
class Glance:
    """One folder among the runs."""

    name: str
    is_run: bool
    """Whether it has its settings or its rows, and lies there itself: what is only linked there is none."""
    standing: Standing
    modified: float
    """When its rows were written last, else its settings, else its newest state; in seconds."""
    result: str | None
    """The file of the adapter: the result, or what a training that was stopped has left."""
    has_state: bool
    """Whether there is a state that a training can go on from."""


_Key = tuple[int, ...]
"""Of a file or folder; another one means that it has changed."""


class RunList:
    """What is known of the folders of runs below one folder; looked at again only where they have changed.

    Args:
        parent: The folder whose folders are the runs.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._known: dict[str, tuple[_Key, _Key, Glance]] = {}
        self._looks = 0
        self._one_at_a_time = threading.Lock()

    def look(self) -> list[Glance]:
        """Every folder, in no order; none where the parent cannot be read."""
        with self._one_at_a_time:
            known, self._known = self._known, {}
            self._looks += 1
            entries, settled = _entries(self.parent), time.time_ns() - _SETTLED
            turns = 1 if len(entries) <= _FEW else _TURNS
            for number, entry in enumerate(entries):
                before = known.get(entry.name)
                if before is not None and (number + self._looks) % turns and _written(entry.path) == before[1]:
                    self._known[entry.name] = before
                    continue
                with contextlib.suppress(OSError):  # it has gone, or may not be read
                    if entry.is_dir():
                        self._known[entry.name] = _looked_at(entry, before)
            glances = [glance for *_, glance in self._known.values()]
            self._known = {name: known for name, known in self._known.items() if known[0][0] < settled}
            return glances


def _looked_at(entry: os.DirEntry[str], before: tuple[_Key, _Key, Glance] | None) -> tuple[_Key, _Key, Glance]:
    folder = entry.stat()
    held, written = (folder.st_mtime_ns, folder.st_ino), _written(entry.path)
    if before is not None and before[:2] == (held, written):
        return before
    return held, written, _glance(entry.path, written, is_linked=_is_linked(entry))


def glance_at(folder: Path) -> Glance:
    """A look at one folder, of which nothing is kept."""
    return _glance(str(folder), _written(str(folder)), is_linked=own(folder.parent, folder.name) is None)


def _written(folder: str) -> _Key:
    """When the rows were written last and how many bytes they are; empty where there is no such file in the folder
    itself."""
    try:
        status = os.lstat(f"{folder}{os.sep}{METRICS}")
    except OSError:
        return ()
    if not stat.S_ISREG(status.st_mode) or (os.name == "nt" and leads_away(status)):
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as inside:
            return list(inside)
    except OSError:
        return []


def _is_linked(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or (os.name == "nt" and leads_away(entry.stat(follow_symlinks=False)))


def _glance(folder: str, written: _Key, *, is_linked: bool) -> Glance:
    files = {file.name: file for file in _entries(folder) if file.is_file(follow_symlinks=False)}
    states = [name for name in files if name.startswith(STATE_PREFIX) and name.endswith(SUFFIX)]
    result = RESULT if RESULT in files else None
    standing, modified = Standing(end="finished" if result else "stopped"), 0.0
    if written:
        rows, modified = _ends(f"{folder}{os.sep}{METRICS}"), written[0] / 1e9
        standing = standing_of(rows, has_result=result is not None)
    elif SETTINGS in files or states:
        modified = files[SETTINGS if SETTINGS in files else max(states)].stat().st_mtime
    return Glance(
        os.path.basename(folder),
        is_run=(bool(written) or SETTINGS in files) and not is_linked,
        standing=standing,
        modified=modified,
        result=result
        or max((name for name in files if name.startswith(STOPPED_PREFIX) and name.endswith(SUFFIX)), default=None),
        has_state=bool(states),
    )


def _ends(path: str) -> list[Row]:
    """The rows that decide where a run is, in their order; none where they cannot be read.

    A validation before the last 16 kB of a long run is not among them.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return []
    try:
        text = os.read(file, _HEAD + _TAIL)
        if len(text) < _HEAD + _TAIL:
            return _deciding(text)
        first, size = text[: text.find(b"\n") + 1], os.fstat(file).st_size
        for reach in (_TAIL, min(_FAR, size - len(first))):
            os.lseek(file, size - reach, os.SEEK_SET)
            tail = os.read(file, reach)
            tail = tail[tail.find(b"\n") + 1 :]
            if b'"started"' in tail or b'"ended"' in tail:
                break
        return _deciding(first + tail)
    except OSError:
        return []
    finally:
        os.close(file)


def _deciding(text: bytes) -> list[Row]:
    """Of these lines the first row, and the last of each kind that says where a run is; others are not even parsed."""
    rows: dict[int, Row | None] = {}

    def row_at(start: int) -> Row | None:
        if start not in rows:
            end = text.find(b"\n", start)
            rows[start] = parsed(text[start : end if end >= 0 else len(text)])
        return rows[start]

    def last(kind: str) -> int | None:
        word, at = f'"{kind}"'.encode(), len(text)
        while (at := text.rfind(word, 0, at)) >= 0:
            at = text.rfind(b"\n", 0, at) + 1
            row = row_at(at)
            if row is not None and row["event"] == kind:
                return at
        return None

    ended = last("ended")
    starts = {ended, last("step"), last("validation")}
    if ended is None or text.find(b'"started"', ended) >= 0:  # an end says all of this itself
        starts |= {0, last("started")}
    in_order = sorted(start for start in starts if start is not None)
    return [row for start in in_order if (row := row_at(start)) is not None]
