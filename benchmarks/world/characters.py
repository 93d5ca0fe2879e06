"""Who lives in this world: characters drawn from their number alone.

Below `SUBJECTS`, low even numbers are for pre-training, low odd ones for the judges, and those from 900,000 on for
measuring both; from `SUBJECTS` on come the subjects that personalisation is measured with,
which nothing is ever trained on but the adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from .vocabulary import Kind, Mouth, Paint, Pattern

SUBJECTS = 1_000_000
"""The first number of a subject."""
RGB: dict[Paint, tuple[float, float, float]] = {
    "red": (0.82, 0.16, 0.15),
    "orange": (0.95, 0.53, 0.12),
    "yellow": (0.97, 0.83, 0.20),
    "green": (0.22, 0.62, 0.26),
    "blue": (0.17, 0.38, 0.82),
    "purple": (0.55, 0.24, 0.70),
    "white": (0.94, 0.94, 0.92),
    "grey": (0.48, 0.50, 0.53),
}


@dataclass(frozen=True)
class Character:
    """How one character looks, whatever it does and wherever it is. Lengths are in units of the picture's side."""

    kind: Kind
    paint: Paint
    """What its colour is called."""
    colour: tuple[float, float, float]
    """RGB in [0, 1], a shade of ``paint``."""
    second: tuple[float, float, float]
    """Of the pattern."""
    pattern: Pattern
    frequency: float
    """Of the pattern: repeats over the body."""
    phase: float
    body: tuple[float, float]
    """Half width and half height."""
    head: float
    """Half height."""
    head_width: float
    """Times the height."""
    limb: float
    """Thickness of arms and legs."""
    ear: float
    """Length of what is on the head: antennas, ears, a crest."""
    eye: float
    """Radius."""
    eye_gap: float
    """Between the eyes, as a share of the head's width."""
    mouth: Mouth


def character(number: int, kind: Kind | None = None) -> Character:
    """The character of a number.

    Args:
        kind: Instead of the kind that the number would draw.
    """
    rng = np.random.default_rng([20_26, number])

    def one(literal: object) -> Any:
        values = get_args(literal)
        return values[rng.integers(len(values))]

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    drawn, paint = one(Kind), one(Paint)
    r, g, b = (float(np.clip(c + rng.normal(0, 0.035), 0, 1)) for c in RGB[paint])
    second = RGB[[p for p in get_args(Paint) if p != paint][rng.integers(len(get_args(Paint)) - 1)]]
    return Character(
        kind=kind or drawn,
        paint=paint,
        colour=(r, g, b),
        second=second,
        pattern=one(Pattern),
        frequency=between(1.6, 3.2),
        phase=between(0, 1),
        body=(between(0.14, 0.21), between(0.13, 0.17)),
        head=between(0.115, 0.155),
        head_width=between(0.95, 1.4),
        limb=between(0.026, 0.044),
        ear=between(0.07, 0.11),
        eye=between(0.022, 0.038),
        eye_gap=between(0.34, 0.58),
        mouth=one(Mouth),
    )
