"""Pictures with captions in a file, rendered once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .characters import Character, character
from .grammar import Scene, caption, draw_scene, who
from .render import SIDE, render

CHUNK = 500
"""Pictures that are rendered and kept at once."""
TOLD = 0.8
"""How often a caption of pre-training tells the colour."""


@dataclass(frozen=True)
class Shot:
    """One picture: who, where, and what is said about it."""

    number: int
    """Of the character."""
    scene: Scene
    caption: str
    seed: int

    @property
    def character(self) -> Character:
        return character(self.number)


def for_training(n: int) -> Shot:
    """The n-th picture that the base model is trained on: a character of its own, even numbers alone."""
    return _shot(n, 2 * n, 30)


def for_judges(n: int, views: int = 8) -> Shot:
    """The n-th picture that the judges are trained on: odd numbers, each in several scenes."""
    return _shot(n, 2 * (n // views) + 1, 31)


def held_out(n: int) -> Shot:
    """The n-th picture that nothing is trained on, of characters that nothing is trained on either."""
    return _shot(n, 900_000 + n // 4, 32)


def _shot(n: int, number: int, stream: int) -> Shot:
    rng = np.random.default_rng([20_28, stream, n])
    someone, scene = character(number), draw_scene(rng)
    paint = someone.paint if rng.uniform() < TOLD else None
    return Shot(number, scene, caption(scene, who(someone.kind, paint)), int(rng.integers(2**31)))


def picture(shot: Shot, side: int = SIDE) -> NDArray[np.uint8]:
    """``(side, side, 3)``: the same at every size but for its edges, which are a pixel wide."""
    return render(shot.character, shot.scene, shot.seed, side)


def rendered(
    file: Path,
    choose: Callable[[int], Shot],
    count: int,
    say: Callable[[str], None] = lambda line: None,
    chunk: int = CHUNK,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """The first ``count`` pictures of a choice as ``(count, side, side, 3)``, mapped from a file;
    what is missing there is rendered.

    A run that was stopped goes on behind the last chunk that was written whole.
    """
    size = side * side * 3
    file.parent.mkdir(parents=True, exist_ok=True)
    have = min(count, file.stat().st_size // (size * chunk) * chunk if file.exists() else 0)
    if have < count:
        starts = range(have, count, chunk)
        # spawn: a fork of a process with threads, such as one that has run torch, may hang
        with (
            open(file, "r+b" if file.exists() else "wb") as out,
            multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool,
        ):
            out.truncate(have * size)
            out.seek(have * size)
            for start, pictures in zip(starts, pool.imap(partial(_chunk, choose, chunk, side), starts), strict=True):
                out.write(pictures)
                out.flush()
                say(f"{start + chunk} of {count} pictures rendered")
    return np.memmap(file, np.uint8, "r", shape=(count, side, side, 3))


def _chunk(choose: Callable[[int], Shot], count: int, side: int, start: int) -> bytes:
    return b"".join(picture(choose(n), side).tobytes() for n in range(start, start + count))
