"""Events as lines of text, from the process that trains to the one that watches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image

from krona_ops.errors import TrainingError

from .events import Ended, Event, Noted, Previewed, Started, Stepped, Validated

_MARK = "krona.event"
_PLAIN = {kind.__name__: kind for kind in (Started, Stepped, Noted)}


def to_line(event: Event, folder: Path) -> str | None:
    """The event as one line; ``None`` for those that only the run's folder needs.

    Args:
        folder: The run's, which has the pictures by now.
    """
    if type(event).__name__ in _PLAIN:
        fields: dict[str, Any] = dataclasses.asdict(event)
    elif isinstance(event, Validated):
        fields = {"step": event.step, "loss": event.loss, "is_best": event.is_best}
    elif isinstance(event, Previewed):
        files = [folder / "previews" / f"step-{event.step:06}-{n}.png" for n in range(1, len(event.pictures) + 1)]
        fields = {"step": event.step, "pictures": [str(file) for file in files]}
    elif isinstance(event, Ended):
        fields = {"step": event.step, "steps": event.steps, "error": None if event.error is None else str(event.error)}
    else:
        return None
    return json.dumps({_MARK: type(event).__name__, **fields})


def from_line(line: str) -> Event | None:
    """The event in a line; ``None`` where the line is something else, such as what a library prints.

    Adapters and states do not travel: they are in the run's folder.
    """
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    kind = fields.pop(_MARK, None) if isinstance(fields, dict) else None
    if kind in _PLAIN:
        return _PLAIN[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    if kind == "Validated":
        return Validated(**fields, adapter=None)
    if kind == "Previewed":
        return Previewed(fields["step"], tuple(_opened(file) for file in fields["pictures"]))
    if kind == "Ended":
        error = None if fields["error"] is None else TrainingError(fields["error"])
        return Ended(fields["step"], fields["steps"], None, None, error)
    return None


def _opened(file: str) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
