"""The rows of ``metrics.jsonl``: what each event leaves there, and how they are read again.

docs/training.md lists them. Every row has ``event``, ``step`` and ``time``; one that lacks what its kind must have, or
that cannot be read at all, is no row: nobody counts it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from krona_ops.border import Border, Limits
from krona_ops.errors import AdapterFileError, KronaError

from .events import EVENTS, Event, Previewed
from .layout import METRICS
from .row import Fields, Row, has_fields

_NEEDED: dict[str, Fields] = {
    kind.NAME: {"step": int, **{name: kind.FIELDS[name] for name in kind.SINCE_EVER}} for kind in EVENTS
}
"""What a row must have, by its event. Rows of earlier versions have less than those of today."""
_OFTEN: Fields = {"steps": int, "layers": int, "parameters": int, "notes": list, "others": list}
"""What many rows have, and readers look at without asking for the event."""
_PICTURE = re.compile(r"[\w.-]{1,200}", re.ASCII)
"""A file in the folder of previews, and never one elsewhere."""
_BORDER = Border(METRICS, limits=Limits(size=4_000_000, depth=4, values=100_000, digits=16))
"""The longest rows are those of a start whose notes name hundreds of files."""
MOST_BYTES = 2**29
"""Of the rows of one run: those of more than two million steps, at 223 bytes each."""
BUFFER = 2**20
"""Bytes that are read at once. A thread that waits for the interpreter's lock asks for it when nobody has released it
for 5 ms; one that reads a little, looks at it and reads again releases it more often than that, and takes it back each
time before another has woken up."""
log = logging.getLogger(__name__)


def row_of(event: Event) -> Row:
    """What is noted of an event: its own row, and when it happened."""
    return {**event.row(), "time": round(time.time(), 3)}


def append(path: Path, row: Row) -> None:
    """Write one row more.

    Raises:
        AdapterFileError: The file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise AdapterFileError(
            f"The run's folder cannot be written: {error.strerror or error}.",
            where=str(path),
            found=str(error),
            expected="a folder with room that may be written",
            remedy="Free some space, and leave the folder of a run that trains where it is.",
        ) from error


def read(path: Path) -> list[Row]:
    """Every row that can be read; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb", BUFFER) as file:
        return [row for line, _ in lines(file) if (row := parsed(line)) is not None]


def lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line from where an open file stands, and where it ends there; never more than the longest row is in memory.

    The last one may be without its end. What follows in a line that is longer than a row can be is passed over, and
    nothing beyond `MOST_BYTES` is read.
    """
    at, is_start = file.tell(), True
    while at < MOST_BYTES and (piece := file.readline(_BORDER.limits.size + 1)):
        at += len(piece)
        if is_start:
            yield piece, at
        is_start = piece.endswith(b"\n")


def parsed(line: bytes) -> Row | None:
    """One row; ``None`` where the line is damaged."""
    try:
        row = _BORDER.json(line, "the row", allow_nan=True)
    except KronaError:
        return None
    return cast(Row, row) if isinstance(row, dict) and is_whole(row) else None


def is_whole(row: Mapping[str, object]) -> bool:
    """Whether a line of the metrics has all that its kind of event has, and a value that is known to have a type has
    that one."""
    kind = row.get("event", "")
    needed = _NEEDED.get(kind) if isinstance(kind, str) else None
    if needed is None or not has_fields(row, needed):
        return False
    if not has_fields(row, {name: type_ for name, type_ in _OFTEN.items() if name in row}):
        return False
    known = cast(Row, row)
    if known["step"] < 0:
        return False
    return kind != Previewed.NAME or all(
        isinstance(name, str) and _PICTURE.fullmatch(name) for name in known["pictures"]
    )


def history(path: Path, done: int) -> list[Row]:
    """What happened up to step ``done``, as far as it can be read.

    Unlike states, metrics are not forced to the disk: after a power cut the last lines may be missing or damaged, which
    must not keep the training itself from going on.
    """
    rows = [row for row in read(path) if row["step"] <= done]
    steps = {row["step"] for row in rows if row["event"] == "step"}
    if len(steps) != done:
        log.warning(
            "KronA: the metrics of %d of %d steps are lost; the training goes on from its state all the same.",
            done - len(steps),
            done,
        )
    return rows
