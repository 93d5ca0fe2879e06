"""Events as lines of text, from the process that trains to the one that watches: an event's row, marked as one."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from ..run.events import EVENTS, Event
from ..run.row import has_fields

_MARK = "krona.event"
_KINDS = {kind.NAME: kind for kind in EVENTS if kind.TRAVELS}


def to_line(event: Event) -> str | None:
    """The event as one line; ``None`` for those that only the run's folder needs."""
    if not event.TRAVELS:
        return None
    fields = {name: value for name, value in event.row().items() if name != "event"}
    return json.dumps({_MARK: event.NAME, **fields})


def from_line(line: str, folder: Path) -> Event | None:
    """The event in a line; ``None`` where the line is something else, such as what a library prints, or damaged.

    Args:
        folder: The run's, which has the pictures. Adapters and states do not travel: they are there too.
    """
    try:
        row = json.loads(line)
        kind = _KINDS[row.pop(_MARK)]
        fields = {"step": int, **kind.FIELDS, **{name: type_ for name, type_ in kind.SOMETIMES.items() if name in row}}
        return kind.from_row(row, folder) if row.keys() == fields.keys() and has_fields(row, fields) else None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError, Image.DecompressionBombError):
        return None
