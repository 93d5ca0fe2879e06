"""What a row of a run's metrics holds; docs/training.md lists the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

Fields = Mapping[str, type | tuple[type, ...]]
"""Fields of a row with their types in JSON."""


class Row(TypedDict, total=False):
    """Every row has ``event`` and ``step``, all but the oldest ``time``; the others are those of its kind
    (`krona_train.run.events`)."""

    event: str
    step: int
    """Steps done."""
    time: float
    """Seconds since 1970."""
    steps: int
    layers: int
    parameters: int
    notes: list[str]
    others: list[str]
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    memory: int
    losses: dict[str, float]
    text: str
    pictures: list[str]
    validation: float
    best: bool
    adapter: bool
    error: str | None
    stopped: bool


def has_fields(row: Mapping[str, object], fields: Fields) -> bool:
    """Whether a row has each of these, of exactly its type: in JSON ``true`` is no number."""
    return all(name in row and type(row[name]) in _types(types) for name, types in fields.items())


def _types(types: type | tuple[type, ...]) -> tuple[type, ...]:
    return types if isinstance(types, tuple) else (types,)
