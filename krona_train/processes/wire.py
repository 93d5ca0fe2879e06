"""Events as lines of text, from the process that trains to the one that watches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image

from krona_ops.errors import TrainingError

from ..run import layout
from ..run.events import Ended, Event, Noted, Previewed, Started, Stepped, Validated
from ..run.metrics import in_words

_MARK = "krona.event"
_PLAIN = {kind.__name__: kind for kind in (Started, Stepped, Noted)}
_FIELDS: dict[str, dict[str, str]] = {
    **{name: {f.name: str(f.type) for f in dataclasses.fields(kind)} for name, kind in _PLAIN.items()},
    "Validated": {"step": "int", "loss": "float", "is_best": "bool"},
    "Previewed": {"step": "int", "pictures": "tuple"},
    "Ended": {"step": "int", "steps": "int", "error": "str | None"},
}
"""What a line holds of each event, and of which type."""


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
        files = [folder / layout.PREVIEWS / name for name in layout.picture_names(event.step, len(event.pictures))]
        fields = {"step": event.step, "pictures": [str(file) for file in files]}
    elif isinstance(event, Ended):
        fields = {"step": event.step, "steps": event.steps, "error": in_words(event.error)}
    else:
        return None
    return json.dumps({_MARK: type(event).__name__, **fields})


def from_line(line: str) -> Event | None:
    """The event in a line; ``None`` where the line is something else, such as what a library prints, or damaged.

    Adapters and states do not travel: they are in the run's folder.
    """
    try:
        fields = json.loads(line)
        return _event(fields) if isinstance(fields, dict) and _MARK in fields else None
    except (ValueError, KeyError, TypeError, OSError, RecursionError, Image.DecompressionBombError):
        return None


def _event(fields: dict[str, Any]) -> Event | None:
    """
    Raises:
        KeyError, ValueError, TypeError: Fields are missing, of another type, or unknown.
        OSError: A picture is not where it should be.
    """
    kind = fields.pop(_MARK)
    shapes = _FIELDS.get(kind)
    if shapes is None or fields.keys() != shapes.keys() or not all(_is(fields[name], shape) for name, shape in shapes.items()):
        return None
    if kind in _PLAIN:
        return _PLAIN[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    if kind == "Validated":
        return Validated(**fields, adapter=None)
    if kind == "Previewed":
        return Previewed(fields["step"], tuple(_opened(file) for file in fields["pictures"]))
    error = None if fields["error"] is None else TrainingError(fields["error"])
    return Ended(fields["step"], fields["steps"], None, None, error)


def _is(value: Any, shape: str) -> bool:
    """Whether a value is of the type that a dataclass names."""
    if shape.startswith("tuple"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    kinds = {"int": int, "float": (float, int), "bool": bool, "str": str, "str | None": (str, type(None))}[shape]
    return isinstance(value, kinds) and (shape == "bool" or not isinstance(value, bool))


def _opened(file: str) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
